// Chooses a kernel of kernels.cuh and launches it on the stream that it is given.
#include <initializer_list>

#include "kernels.cuh"

// Tests replace these three to run the kernels without a GPU, and to reach the paths that are
// meant for tensors of more than 2³¹ elements with small ones.
#ifndef OP_LAUNCH
#define OP_LAUNCH(kernel, grid, block, stream, ...) \
  kernel<<<grid, block, 0, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
#endif
#ifndef OP_INDEX_LIMIT
#define OP_INDEX_LIMIT INT32_MAX
#endif
#ifndef OP_GRID_LIMIT
#define OP_GRID_LIMIT 65535  // blocks along y and z; kernels go round for the rest
#endif

namespace {

unsigned clamp_grid(int64_t blocks, int64_t limit = OP_GRID_LIMIT) {
  return unsigned(blocks < 1 ? 1 : blocks < limit ? blocks : limit);
}

// ---------------------------------------------------------------------------------- upfirdn2d

// A block as wide as the output's row, at least a quarter of a warp and at most all threads; what
// is left of its threads goes to more images, so that tiny images still fill a block.
struct Shape {
  dim3 grid, block;
};

Shape fir_shape(const Fir& f, int64_t rows) {
  const int64_t columns = f.out_w * f.inner;
  unsigned wide = 8;
  while (wide < THREADS && wide < columns) wide *= 2;
  const unsigned deep = THREADS / wide;  // at most 32, and a block may have 64 along z
  return {dim3(unsigned(ceil_divide(columns, wide)), clamp_grid(rows),
               clamp_grid(ceil_divide(f.outer, deep))),
          dim3(wide, 1, deep)};
}

// Long strips read few rows twice; short ones keep a small image's threads busy.
int strip_rows(const Fir& f) {
  const int64_t columns = f.outer * f.out_w * f.inner;
  int strip = 64;
  while (strip > 4 && columns * ceil_divide(f.out_h, strip) < (1 << 18)) strip /= 2;
  while (ceil_divide(f.out_h, strip) > OP_GRID_LIMIT) strip *= 2;
  return strip;
}

template <typename T, int UP, int DOWN>
void launch_four(T* out, const T* x, const double* column, const double* row, const Fir& f,
                 void* stream) {
  FourByFour<typename Wide<T>::type> taps;
  for (int i = 0; i < 4; ++i) {
    taps.column[i] = static_cast<typename Wide<T>::type>(column[i]);
    taps.row[i] = static_cast<typename Wide<T>::type>(row[i]);
  }
  const int strip = strip_rows(f);
  const Shape shape = fir_shape(f, ceil_divide(f.out_h, strip));
  OP_LAUNCH((fir_four<T, UP, DOWN>), shape.grid, shape.block, stream, out, x, taps, f, strip);
}

template <typename T>
void launch_general(T* out, const T* x, const double* values, const Fir& f, void* stream) {
  Taps<typename Wide<T>::type> taps = {};
  for (int i = 0; i < f.taps_y * f.taps_x; ++i)
    taps.value[i] = static_cast<typename Wide<T>::type>(values[i]);
  const Shape shape = fir_shape(f, f.out_h);
  OP_LAUNCH((fir_general<T>), shape.grid, shape.block, stream, out, x, taps, f);
}

template <typename T>
void fir(void* out_, const void* x_, const double* taps, const double* column, const double* row,
         const Fir& f, void* stream) {
  T* out = static_cast<T*>(out_);
  const T* x = static_cast<const T*>(x_);
  const bool even = f.up_y == f.up_x && f.down_y == f.down_x;
  const bool four = f.separable && f.taps_y == 4 && f.taps_x == 4 && even;
  if (four && f.up_x == 1 && f.down_x == 1)
    launch_four<T, 1, 1>(out, x, column, row, f, stream);
  else if (four && f.up_x == 2 && f.down_x == 1)
    launch_four<T, 2, 1>(out, x, column, row, f, stream);
  else if (four && f.up_x == 1 && f.down_x == 2)
    launch_four<T, 1, 2>(out, x, column, row, f, stream);
  else
    launch_general<T>(out, x, taps, f, stream);
}

// ------------------------------------------------------------------------- styled_leaky_relu

template <typename S>
Parts<S> parts(const void* demod, const void* noise, const void* strength, const void* bias) {
  return {static_cast<const S*>(demod), static_cast<const S*>(noise),
          static_cast<const S*>(strength), static_cast<const S*>(bias)};
}

bool aligned(std::initializer_list<const void*> pointers) {
  for (const void* pointer : pointers)
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) return false;
  return true;
}

template <typename T, int WIDTH, bool CHANNELS_LAST>
void launch_activate(T* out, const T* x, const Parts<typename Wide<T>::type>& p, const Layer& l,
                     void* stream) {
  const int64_t elements = l.n * l.channels * l.pixels;
  const dim3 grid(clamp_grid(ceil_divide(elements / WIDTH, THREADS), 1 << 20)), block(THREADS);
  // an index steps past the end by up to one grid before it is compared: keep that in its type too
  if (elements + int64_t(grid.x) * THREADS < OP_INDEX_LIMIT)
    OP_LAUNCH((activate<T, WIDTH, CHANNELS_LAST, int32_t>), grid, block, stream, out, x, p, l);
  else
    OP_LAUNCH((activate<T, WIDTH, CHANNELS_LAST, int64_t>), grid, block, stream, out, x, p, l);
}

template <typename T>
void forward(void* out_, const void* x_, const Parts<typename Wide<T>::type>& p, const Layer& l,
             void* stream) {
  T* out = static_cast<T*>(out_);
  const T* x = static_cast<const T*>(x_);
  constexpr int WIDTH = 16 / sizeof(T);
  const int64_t inner = l.channels_last ? l.channels : l.pixels;
  const bool wide = inner % WIDTH == 0 && aligned({out, x, p.demod, p.noise, p.bias});
  if (l.channels_last && wide) launch_activate<T, WIDTH, true>(out, x, p, l, stream);
  if (l.channels_last && !wide) launch_activate<T, 1, true>(out, x, p, l, stream);
  if (!l.channels_last && wide) launch_activate<T, WIDTH, false>(out, x, p, l, stream);
  if (!l.channels_last && !wide) launch_activate<T, 1, false>(out, x, p, l, stream);
}

template <typename T>
void backward(void* grad_x_, void* sums_, const void* grad_, const void* x_,
              const Parts<typename Wide<T>::type>& p, const Layer& l, void* stream) {
  using S = typename Wide<T>::type;
  T* grad_x = static_cast<T*>(grad_x_);
  S* sums = static_cast<S*>(sums_);
  const T *grad = static_cast<const T*>(grad_), *x = static_cast<const T*>(x_);
  constexpr int WIDTH = 16 / sizeof(T);
  const dim3 block(THREADS);
  if (l.channels_last) {
    const dim3 grid(unsigned(ceil_divide(l.channels, LANES)), clamp_grid(l.splits),
                    clamp_grid(l.n));
    OP_LAUNCH((backward_channels_last<T>), grid, block, stream, grad_x, sums, grad, x, p, l);
    return;
  }
  const dim3 grid(unsigned(l.splits), clamp_grid(l.n * l.channels));
  if (l.pixels % WIDTH == 0 && aligned({grad_x, grad, x, p.noise}))
    OP_LAUNCH((backward_planes<T, WIDTH>), grid, block, stream, grad_x, sums, grad, x, p, l);
  else
    OP_LAUNCH((backward_planes<T, 1>), grid, block, stream, grad_x, sums, grad, x, p, l);
}

}  // namespace

// The type that a number stands for, as `T` in a line of code.
#define OP_DISPATCH(dtype, ...)                                    \
  switch (dtype) {                                                 \
    case FLOAT32: { using T = float; __VA_ARGS__; break; }         \
    case FLOAT64: { using T = double; __VA_ARGS__; break; }        \
    case FLOAT16: { using T = __half; __VA_ARGS__; break; }        \
    case BFLOAT16: { using T = __nv_bfloat16; __VA_ARGS__; break; } \
    default: return cudaErrorInvalidValue;                         \
  }

int32_t op_upfirdn2d(void* out, const void* x, const double* taps, const double* column,
                     const double* row, const Fir* f, int32_t dtype, void* stream) {
  OP_DISPATCH(dtype, fir<T>(out, x, taps, column, row, *f, stream));
  return cudaGetLastError();
}

int32_t op_styled_leaky_relu(void* out, const void* x, const void* demod, const void* noise,
                             const void* strength, const void* bias, const Layer* l, int32_t dtype,
                             void* stream) {
  OP_DISPATCH(dtype, forward<T>(out, x, parts<Wide<T>::type>(demod, noise, strength, bias), *l,
                                stream));
  return cudaGetLastError();
}

int32_t op_styled_leaky_relu_backward(void* grad_x, void* sums, const void* grad, const void* x,
                                      const void* demod, const void* noise, const void* strength,
                                      const void* bias, const Layer* l, int32_t dtype,
                                      void* stream) {
  OP_DISPATCH(dtype, backward<T>(grad_x, sums, grad, x,
                                 parts<Wide<T>::type>(demod, noise, strength, bias), *l, stream));
  return cudaGetLastError();
}

// Enough blocks to fill a GPU, and parts long enough to be worth one.
int64_t op_splits(const Layer* l) {
  const int64_t planes = l->channels_last ? l->n * ceil_divide(l->channels, LANES)
                                          : l->n * l->channels;
  const int64_t shortest = l->channels_last ? 8 * (THREADS / LANES) : 16 * THREADS;
  const int64_t wanted = ceil_divide(4096, planes < 1 ? 1 : planes);
  const int64_t possible = ceil_divide(l->pixels, shortest);
  return possible < 1 ? 1 : wanted < possible ? wanted : possible;
}

const char* op_error(int32_t code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }
