// The arithmetic on the GPU, free of PyTorch: `nvcc` alone compiles it, and tests compile it with a
// C++ compiler and run its blocks and threads one after another.
//
// All kernels are bound by memory, so what counts is that neighbouring threads read neighbouring
// elements and that nothing is read twice from far. Sizes are 64 bits wide; indices are 32 bits
// wide in the kernel that divides them per element, where the tensor allows it.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "../interface.h"

constexpr int THREADS = 256;  // per block
constexpr int LANES = 32;     // channels that a block takes side by side in channels_last sums

// Sums are in float32, or in float64 where the data are.
template <typename T> struct Wide { using type = float; };
template <> struct Wide<double> { using type = double; };

__host__ __device__ inline float widen(float x) { return x; }
__host__ __device__ inline double widen(double x) { return x; }
__host__ __device__ inline float widen(__half x) { return __half2float(x); }
__host__ __device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T> __host__ __device__ inline T narrow(typename Wide<T>::type x) { return x; }
template <> __host__ __device__ inline __half narrow<__half>(float x) { return __float2half(x); }
template <> __host__ __device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float x) {
  return __float2bfloat16(x);
}

// Neighbours that are read and written together, 16 bytes at a time.
template <typename T, int WIDTH>
struct alignas(sizeof(T) * WIDTH < 16 ? sizeof(T) * WIDTH : 16) Pack {
  T value[WIDTH];
};

__host__ __device__ inline int64_t ceil_divide(int64_t a, int64_t b) {  // b > 0
  return a / b + (a % b > 0);
}

// ---------------------------------------------------------------------------------- upfirdn2d

// A filter in the kernel's arguments: constant memory, the same word for all threads of a warp.
template <typename S> struct Taps { S value[MAX_TAPS]; };
template <typename S> struct FourByFour { S column[4], row[4]; };

// Any filter, any factors: one thread per output pixel, skipping the zeros between pixels.
// Grid: x over the output's row (width · inner), y over its rows, z over images.
template <typename T>
__global__ void __launch_bounds__(THREADS)
    fir_general(T* out, const T* x, const Taps<typename Wide<T>::type> taps, const Fir f) {
  using S = typename Wide<T>::type;
  const int64_t in_pitch = f.in_w * f.inner, out_pitch = f.out_w * f.inner;
  const int64_t column = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= out_pitch) return;
  const int64_t across = column / f.inner * f.down_x - f.pad_x;  // of the first tap, upsampled
  const int64_t first_x = ceil_divide(across, f.up_x), phase_x = first_x * f.up_x - across;
  const T* const channel = x + column % f.inner;

  for (int64_t image = int64_t(blockIdx.z) * blockDim.z + threadIdx.z; image < f.outer;
       image += int64_t(gridDim.z) * blockDim.z) {
    for (int64_t y = blockIdx.y; y < f.out_h; y += gridDim.y) {
      const int64_t along = y * f.down_y - f.pad_y;
      int64_t row = ceil_divide(along, f.up_y);
      S sum = 0;
      for (int64_t i = row * f.up_y - along; i < f.taps_y; i += f.up_y, ++row) {
        if (row < 0 || row >= f.in_h) continue;
        const T* const line = channel + (image * f.in_h + row) * in_pitch;
        int64_t pixel = first_x;
        for (int64_t j = phase_x; j < f.taps_x; j += f.up_x, ++pixel)
          if (pixel >= 0 && pixel < f.in_w)
            sum += taps.value[i * f.taps_x + j] * widen(line[pixel * f.inner]);
      }
      out[(image * f.out_h + y) * out_pitch + column] = narrow<T>(sum);
    }
  }
}

// The `i`-th tap that meets a pixel. Written out, because an index that only the running kernel
// knows would put the taps into slow local memory.
template <int UP, typename S>
__device__ inline S tap(const S (&taps)[4], int phase, int i) {
  if (UP == 1) return taps[i];
  return phase == 0 ? taps[2 * i % 4] : taps[(2 * i + 1) % 4];
}

// One input row, filtered at one output column; nothing outside the image.
template <int COUNT, typename T, typename S>
__device__ inline S filter_row(const T* line, int64_t pixel, const S (&taps)[COUNT], const Fir& f) {
  S sum = 0;
#pragma unroll
  for (int j = 0; j < COUNT; ++j)
    if (pixel + j >= 0 && pixel + j < f.in_w) sum += taps[j] * widen(line[(pixel + j) * f.inner]);
  return sum;
}

// The filters of StyleGAN2: four taps each way, separable. A thread walks down a strip of one
// output column and keeps the rows that it still needs, filtered across, in registers, so that
// each input row is filtered across once and comes from memory once but for the strip's edges.
// Grid: x over the output's row, y over strips of `strip` rows, z over images.
template <typename T, int UP, int DOWN>
__global__ void __launch_bounds__(THREADS)
    fir_four(T* out, const T* x, const FourByFour<typename Wide<T>::type> taps, const Fir f,
             const int strip) {
  using S = typename Wide<T>::type;
  constexpr int COUNT = 4 / UP;  // taps that meet a pixel and not a zero between pixels
  const int64_t in_pitch = f.in_w * f.inner, out_pitch = f.out_w * f.inner;
  const int64_t column = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= out_pitch) return;
  const int64_t across = column / f.inner * DOWN - f.pad_x;
  const int64_t pixel = ceil_divide(across, UP);
  const int phase_x = int(pixel * UP - across);
  S row_taps[COUNT];
#pragma unroll
  for (int j = 0; j < COUNT; ++j) row_taps[j] = tap<UP>(taps.row, phase_x, j);
  const int64_t begin = int64_t(blockIdx.y) * strip;
  const int64_t end = begin + strip < f.out_h ? begin + strip : f.out_h;

  for (int64_t image = int64_t(blockIdx.z) * blockDim.z + threadIdx.z; image < f.outer;
       image += int64_t(gridDim.z) * blockDim.z) {
    const T* const source = x + image * f.in_h * in_pitch + column % f.inner;
    T* const target = out + image * f.out_h * out_pitch + column;
    int64_t next = ceil_divide(begin * DOWN - f.pad_y, UP);  // the input row that comes next
    S window[COUNT];  // the rows next − COUNT .. next − 1, filtered across
    const auto advance = [&]() {
#pragma unroll
      for (int i = 0; i + 1 < COUNT; ++i) window[i] = window[i + 1];
      const bool inside = next >= 0 && next < f.in_h;
      window[COUNT - 1] =
          inside ? filter_row<COUNT>(source + next * in_pitch, pixel, row_taps, f) : S(0);
      ++next;
    };
#pragma unroll
    for (int i = 0; i < COUNT; ++i) window[i] = 0;
#pragma unroll
    for (int i = 0; i + 1 < COUNT; ++i) advance();

    for (int64_t y = begin; y < end; ++y) {
      const int64_t along = y * DOWN - f.pad_y, row = ceil_divide(along, UP);
      const int phase = int(row * UP - along);
      while (next < row + COUNT) advance();
      S sum = 0;
#pragma unroll
      for (int i = 0; i < COUNT; ++i) sum += tap<UP>(taps.column, phase, i) * window[i];
      target[y * out_pitch] = narrow<T>(sum);
    }
  }
}

// ------------------------------------------------------------------------- styled_leaky_relu

// Everything but x that the layer adds; a null pointer is a part left out.
template <typename S> struct Parts { const S *demod, *noise, *strength, *bias; };

template <int WIDTH, typename S>
__device__ inline Pack<S, WIDTH> splat(const S* from, S otherwise) {
  Pack<S, WIDTH> pack;
#pragma unroll
  for (int j = 0; j < WIDTH; ++j) pack.value[j] = from ? *from : otherwise;
  return pack;
}

template <int WIDTH, typename S>
__device__ inline Pack<S, WIDTH> load(const S* from, S otherwise) {
  return from ? *reinterpret_cast<const Pack<S, WIDTH>*>(from) : splat<WIDTH>(from, otherwise);
}

template <typename S>
__device__ inline const S* at(const S* from, int64_t index) {
  return from ? from + index : nullptr;
}

template <typename S>
__device__ inline const S* noise_of(const Parts<S>& p, int64_t image, const Layer& l) {
  return at(p.noise, l.noise_n == 1 ? 0 : image * l.pixels);
}

// One thread per pack of neighbours, which lie in one plane (NCHW) or at one pixel (channels_last).
// Grid: x over packs, as many times as it takes.
template <typename T, int WIDTH, bool CHANNELS_LAST, typename Index>
__global__ void __launch_bounds__(THREADS)
    activate(T* out, const T* x, const Parts<typename Wide<T>::type> p, const Layer l) {
  using S = typename Wide<T>::type;
  using P = Pack<T, WIDTH>;
  const Index packs = Index(l.n * l.channels * l.pixels / WIDTH);
  const Index inner = Index(CHANNELS_LAST ? l.channels : l.pixels);
  const Index middle = Index(CHANNELS_LAST ? l.pixels : l.channels);
  const S slope = S(l.negative_slope), scale = S(l.scale);
  const S strength = p.noise ? *p.strength : S(0);
  const Index step = Index(gridDim.x) * THREADS;

  for (Index i = Index(blockIdx.x) * THREADS + threadIdx.x; i < packs; i += step) {
    const Index first = i * WIDTH, rest = first / inner, image = rest / middle;
    const Index low = first - rest * inner, high = rest - image * middle;
    const int64_t channel = CHANNELS_LAST ? low : high, pixel = CHANNELS_LAST ? high : low;
    const S* const demod_at = at(p.demod, image * l.channels + channel);
    const S* const bias_at = at(p.bias, channel);
    const S* const noise_at = at(noise_of(p, image, l), pixel);
    const auto demod = CHANNELS_LAST ? load<WIDTH>(demod_at, S(1)) : splat<WIDTH>(demod_at, S(1));
    const auto bias = CHANNELS_LAST ? load<WIDTH>(bias_at, S(0)) : splat<WIDTH>(bias_at, S(0));
    const auto noise = CHANNELS_LAST ? splat<WIDTH>(noise_at, S(0)) : load<WIDTH>(noise_at, S(0));
    P pack = reinterpret_cast<const P*>(x)[i];
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
      const S u = demod.value[j] * widen(pack.value[j]) + strength * noise.value[j] + bias.value[j];
      pack.value[j] = narrow<T>((u > 0 ? u : slope * u) * scale);
    }
    reinterpret_cast<P*>(out)[i] = pack;
  }
}

// What a plane gives to the gradients of its demodulation, of the noise's strength and of its bias.
template <typename S> struct Sums {
  S demod, strength, bias;

  __host__ __device__ void add(const Sums& other) {
    demod += other.demod;
    strength += other.strength;
    bias += other.bias;
  }
};

// One element of the backward pass: its share of the sums, and the gradient of x.
template <typename S>
__host__ __device__ inline S backward_element(S grad, S x, S demod, S noise, S strength, S bias,
                                              const Layer& l, Sums<S>& sums) {
  const S u = demod * x + strength * noise + bias;
  const S d = grad * S(l.scale) * (u > 0 ? S(1) : S(l.negative_slope));
  sums.add({d * x, d * noise, d});
  return demod * d;
}

template <typename S>
__device__ inline void write_sums(S* sums, const Sums<S>& s, int64_t split, int64_t image,
                                  int64_t channel, const Layer& l) {
  const int64_t planes = l.n * l.channels, plane = image * l.channels + channel;
  sums[(0 * l.splits + split) * planes + plane] = s.demod;
  sums[(1 * l.splits + split) * planes + plane] = s.strength;
  sums[(2 * l.splits + split) * planes + plane] = s.bias;
}

// NCHW: a block takes one part of one plane. Parts are written apart and added up later, so that
// the result is the same every time. Grid: x over parts, y over planes, as many times as it takes.
template <typename T, int WIDTH>
__global__ void __launch_bounds__(THREADS)
    backward_planes(T* grad_x, typename Wide<T>::type* sums, const T* grad, const T* x,
                    const Parts<typename Wide<T>::type> p, const Layer l) {
  using S = typename Wide<T>::type;
  using P = Pack<T, WIDTH>;
  __shared__ Sums<S> shared[THREADS];
  const int64_t packs = l.pixels / WIDTH, part = ceil_divide(packs, l.splits);
  const int64_t begin = int64_t(blockIdx.x) * part;
  const int64_t end = begin + part < packs ? begin + part : packs;
  const S strength = p.noise ? *p.strength : S(0);
  const int me = threadIdx.x;

  for (int64_t plane = blockIdx.y; plane < l.n * l.channels; plane += gridDim.y) {
    const int64_t image = plane / l.channels, channel = plane % l.channels;
    const S demod = p.demod ? p.demod[plane] : S(1), bias = p.bias ? p.bias[channel] : S(0);
    const S* const noise_at = noise_of(p, image, l);
    Sums<S> mine = {};
    for (int64_t i = begin + me; i < end; i += THREADS) {
      const P from = reinterpret_cast<const P*>(x + plane * l.pixels)[i];
      const auto noise = load<WIDTH>(at(noise_at, i * WIDTH), S(0));
      P pack = reinterpret_cast<const P*>(grad + plane * l.pixels)[i];
#pragma unroll
      for (int j = 0; j < WIDTH; ++j)
        pack.value[j] =
            narrow<T>(backward_element(S(widen(pack.value[j])), S(widen(from.value[j])), demod,
                                       noise.value[j], strength, bias, l, mine));
      reinterpret_cast<P*>(grad_x + plane * l.pixels)[i] = pack;
    }
    if (!sums) continue;
    shared[me] = mine;
    for (int half = THREADS / 2; half > 0; half /= 2) {
      __syncthreads();
      if (me < half) shared[me].add(shared[me + half]);
    }
    if (me == 0) write_sums(sums, shared[0], blockIdx.x, image, channel, l);
    __syncthreads();  // before the next plane overwrites what is still being added up
  }
}

// channels_last: a block takes 32 channels of one part of one image's pixels, so that a warp reads
// neighbours. Grid: x over groups of channels, y over parts, z over images; y and z as many times
// as it takes.
template <typename T>
__global__ void __launch_bounds__(THREADS)
    backward_channels_last(T* grad_x, typename Wide<T>::type* sums, const T* grad, const T* x,
                           const Parts<typename Wide<T>::type> p, const Layer l) {
  using S = typename Wide<T>::type;
  constexpr int ROWS = THREADS / LANES;
  __shared__ Sums<S> shared[THREADS];
  const int me = threadIdx.x, lane = me % LANES, row = me / LANES;
  const int64_t channel = int64_t(blockIdx.x) * LANES + lane;
  const bool inside = channel < l.channels;
  const int64_t part = ceil_divide(l.pixels, l.splits);
  const S strength = p.noise ? *p.strength : S(0);
  const S bias = p.bias && inside ? p.bias[channel] : S(0);

  for (int64_t image = blockIdx.z; image < l.n; image += gridDim.z) {
    const S demod = p.demod && inside ? p.demod[image * l.channels + channel] : S(1);
    const S* const noise_at = noise_of(p, image, l);
    for (int64_t split = blockIdx.y; split < l.splits; split += gridDim.y) {
      const int64_t begin = split * part;
      const int64_t end = begin + part < l.pixels ? begin + part : l.pixels;
      Sums<S> mine = {};
      for (int64_t pixel = begin + row; pixel < end && inside; pixel += ROWS) {
        const int64_t i = (image * l.pixels + pixel) * l.channels + channel;
        const S noise = noise_at ? noise_at[pixel] : S(0);
        const S g = backward_element(S(widen(grad[i])), S(widen(x[i])), demod, noise, strength,
                                     bias, l, mine);
        grad_x[i] = narrow<T>(g);
      }
      if (!sums) continue;
      shared[me] = mine;
      __syncthreads();
      if (row == 0 && inside) {
        for (int i = 1; i < ROWS; ++i) mine.add(shared[i * LANES + lane]);
        write_sums(sums, mine, split, image, channel, l);
      }
      __syncthreads();  // before the next part overwrites what row 0 reads
    }
  }
}
