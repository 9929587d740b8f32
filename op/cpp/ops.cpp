// The arithmetic on the CPU: loops over neighbouring elements, which the compiler turns into vector
// instructions, inside loops over rows or planes, which OpenMP spreads over threads.
#include <algorithm>
#include <cstring>
#include <vector>

#include "../interface.h"

namespace {

constexpr int64_t SMALL = 1 << 14;  // elements below which threads cost more than they bring

// bfloat16 is the upper half of a float32.
struct BFloat16 {
  uint16_t bits;
};

template <typename T> struct Wide { using type = T; };
template <> struct Wide<BFloat16> { using type = float; };

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(BFloat16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline void store(float* to, float x) { *to = x; }
inline void store(double* to, double x) { *to = x; }
inline void store(BFloat16* to, float x) {  // to nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  to->bits = uint16_t(x == x ? rounded : 0x7fc0);
}

int64_t ceil_divide(int64_t a, int64_t b) { return a / b + (a % b > 0); }  // b > 0

// ---------------------------------------------------------------------------------- upfirdn2d

// One strip of output rows of one image. A line of input is spread out with its zeros and edges,
// filtered across and, where the filter is separable, kept for the rows below that need it too.
template <typename T>
class Strip {
  using S = typename Wide<T>::type;

 public:
  Strip(const Fir& f, const T* x, T* out)
      : f_(f), x_(x), out_(out), rows_(ceil_divide(f.taps_y, f.up_y)), width_(f.out_w * f.inner),
        line_(((f.out_w - 1) * f.down_x + f.taps_x) * f.inner), nothing_(width_),
        kept_(f.separable ? rows_ * width_ : width_) {}

  void separable(const std::vector<S>& column, const std::vector<S>& row, int64_t begin,
                 int64_t end) {
    int64_t next = first_row(begin);  // the input row that comes next
    for (int64_t y = begin; y < end; ++y) {
      const int64_t along = y * f_.down_y - f_.pad_y, top = first_row(y);
      next = std::max(next, top);
      for (; next < top + rows_; ++next)
        if (inside(next)) {
          spread(next);
          std::fill_n(slot(next), width_, S(0));
          across(slot(next), row.data());
        }
      combine(out_ + y * width_, column.data(), top, top * f_.up_y - along);
    }
  }

  void general(const std::vector<S>& taps, int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) {
      const int64_t along = y * f_.down_y - f_.pad_y;
      int64_t source = first_row(y);
      std::fill(kept_.begin(), kept_.end(), S(0));
      for (int64_t i = source * f_.up_y - along; i < f_.taps_y; i += f_.up_y, ++source)
        if (inside(source)) {
          spread(source);
          across(kept_.data(), taps.data() + i * f_.taps_x);
        }
      for (int64_t i = 0; i < width_; ++i) store(out_ + y * width_ + i, kept_[i]);
    }
  }

 private:
  int64_t first_row(int64_t y) const { return ceil_divide(y * f_.down_y - f_.pad_y, f_.up_y); }
  bool inside(int64_t row) const { return row >= 0 && row < f_.in_h; }
  S* slot(int64_t row) { return kept_.data() + row % rows_ * width_; }

  // An input row where the filter meets it: zeros between pixels and outside were there before.
  void spread(int64_t row) {
    const int64_t positions = int64_t(line_.size()) / f_.inner;
    const int64_t begin = std::max<int64_t>(0, ceil_divide(-f_.pad_x, f_.up_x));
    const int64_t end = std::min(f_.in_w, ceil_divide(positions - f_.pad_x, f_.up_x));
    const T* from = x_ + row * f_.in_w * f_.inner;
    if (f_.inner == 1 && f_.up_x == 2) return copy<2>(from, begin, end);
    if (f_.inner == 1 && f_.up_x == 1) return copy<1>(from, begin, end);
    for (int64_t i = begin; i < end; ++i)
      for (int64_t c = 0; c < f_.inner; ++c)
        line_[(i * f_.up_x + f_.pad_x) * f_.inner + c] = widen(from[i * f_.inner + c]);
  }

  template <int UP>
  void copy(const T* from, int64_t begin, int64_t end) {
    S* const to = line_.data() + f_.pad_x;
    for (int64_t i = begin; i < end; ++i) to[i * UP] = widen(from[i]);
  }

  // Adds the line, filtered across, to `sum`.
  void across(S* sum, const S* taps) const {
    if (f_.down_x == 1 && f_.taps_x == 4) return four(sum, taps);
    for (int j = 0; j < f_.taps_x; ++j) {
      const S* const from = line_.data() + j * f_.inner;
      if (f_.inner == 1)
        for (int64_t i = 0; i < width_; ++i) sum[i] += taps[j] * from[i * f_.down_x];
      else
        for (int64_t i = 0; i < f_.out_w; ++i)
          for (int64_t c = 0; c < f_.inner; ++c)
            sum[i * f_.inner + c] += taps[j] * from[i * f_.down_x * f_.inner + c];
    }
  }

  void four(S* sum, const S* taps) const {
    const S *a = line_.data(), *b = a + f_.inner, *c = b + f_.inner, *d = c + f_.inner;
    for (int64_t i = 0; i < width_; ++i)
      sum[i] += taps[0] * a[i] + taps[1] * b[i] + taps[2] * c[i] + taps[3] * d[i];
  }

  // The kept rows from `top` on, weighted with every `up`-th tap from `phase` on.
  void combine(T* out, const S* taps, int64_t top, int64_t phase) {
    const auto row = [&](int64_t i) { return inside(top + i) ? slot(top + i) : nothing_.data(); };
    const auto tap = [&](int64_t i) {
      return phase + i * f_.up_y < f_.taps_y ? taps[phase + i * f_.up_y] : S(0);
    };
    if (rows_ == 4) {
      const S *a = row(0), *b = row(1), *c = row(2), *d = row(3);
      const S p = tap(0), q = tap(1), r = tap(2), s = tap(3);
      for (int64_t i = 0; i < width_; ++i) store(out + i, p * a[i] + q * b[i] + r * c[i] + s * d[i]);
      return;
    }
    if (rows_ == 2) {
      const S *a = row(0), *b = row(1);
      const S p = tap(0), q = tap(1);
      for (int64_t i = 0; i < width_; ++i) store(out + i, p * a[i] + q * b[i]);
      return;
    }
    std::vector<S> sum(width_);
    for (int64_t j = 0; j < rows_; ++j) {
      const S* const from = row(j);
      const S weight = tap(j);
      for (int64_t i = 0; i < width_; ++i) sum[i] += weight * from[i];
    }
    for (int64_t i = 0; i < width_; ++i) store(out + i, sum[i]);
  }

  const Fir& f_;
  const T* const x_;
  T* const out_;
  const int64_t rows_, width_;  // input rows that meet an output row; elements of an output row
  std::vector<S> line_, nothing_, kept_;
};

template <typename T>
void fir(void* out, const void* x, const double* taps, const double* column, const double* row,
         const Fir& f) {
  using S = typename Wide<T>::type;
  const std::vector<S> all(taps, taps + f.taps_y * f.taps_x);
  std::vector<S> down, over;
  if (f.separable) {
    down.assign(column, column + f.taps_y);
    over.assign(row, row + f.taps_x);
  }
  const int64_t in_size = f.in_h * f.in_w * f.inner, out_size = f.out_h * f.out_w * f.inner;
  const int64_t height = std::max<int64_t>(32, ceil_divide(f.out_h, 64));  // a strip's
  const int64_t strips = ceil_divide(f.out_h, height);
#pragma omp parallel for if (f.outer * out_size > SMALL)
  for (int64_t task = 0; task < f.outer * strips; ++task) {
    const int64_t image = task / strips, begin = task % strips * height;
    const int64_t end = std::min(begin + height, f.out_h);
    Strip<T> strip(f, static_cast<const T*>(x) + image * in_size,
                   static_cast<T*>(out) + image * out_size);
    if (f.separable)
      strip.separable(down, over, begin, end);
    else
      strip.general(all, begin, end);
  }
}

// ------------------------------------------------------------------------- styled_leaky_relu

// Everything but x that the layer adds; a null pointer is a part left out.
template <typename S>
struct Parts {
  const S *demod, *noise, *strength, *bias;

  Parts(const void* g, const void* n, const void* s, const void* b)
      : demod(static_cast<const S*>(g)), noise(static_cast<const S*>(n)),
        strength(static_cast<const S*>(s)), bias(static_cast<const S*>(b)) {}

  S demod_of(const Layer& l, int64_t n, int64_t c) const {
    return demod ? demod[n * l.channels + c] : 1;
  }
  S bias_of(int64_t c) const { return bias ? bias[c] : 0; }
  const S* noise_of(const Layer& l, int64_t n) const {
    return noise ? noise + (l.noise_n == 1 ? 0 : n * l.pixels) : nullptr;
  }
};

// Short sums are more exact than long ones, and parts give the threads something to share.
int64_t splits(const Layer& l) {
  const int64_t part = l.channels_last ? std::max<int64_t>(64, 32768 / l.channels) : 8192;
  return std::max<int64_t>(1, ceil_divide(l.pixels, part));
}

// The factors of a layer, by value, so that the loops keep them in registers.
template <typename S> struct Factors { S slope, scale, strength; };

template <typename S>
inline S leaky(S u, const Factors<S>& f) {
  const S low = f.slope * u;
  return (u > 0 ? u : low) * f.scale;
}

template <typename S>
inline S leaky_slope(S u, const Factors<S>& f) {
  return f.scale * (u > 0 ? S(1) : f.slope);
}

// Neighbours in a plane: one demodulation and bias, each its own noise.
template <typename T, typename S>
void plane_forward(T* out, const T* x, const S* noise, int64_t count, S demod, S bias,
                   const Factors<S> f) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i)
    store(out + i, leaky(demod * widen(x[i]) + f.strength * noise[i] + bias, f));
}

// Sums of a plane, or of many channels: of demodulation, strength and bias.
template <typename S> struct Sums { S demod, strength, bias; };

template <typename T, typename S>
Sums<S> plane_backward(T* grad_x, const T* grad, const T* x, const S* noise, int64_t count, S demod,
                       S bias, const Factors<S> f) {
  S to_demod = 0, to_strength = 0, to_bias = 0;
#pragma omp simd reduction(+ : to_demod, to_strength, to_bias)
  for (int64_t i = 0; i < count; ++i) {
    const S from = widen(x[i]), u = demod * from + f.strength * noise[i] + bias;
    const S d = widen(grad[i]) * leaky_slope(u, f);
    to_demod += d * from;
    to_strength += d * noise[i];
    to_bias += d;
    store(grad_x + i, demod * d);
  }
  return {to_demod, to_strength, to_bias};
}

// The channels of one pixel: one noise, each its own demodulation and bias.
template <typename T, typename S>
void pixel_forward(T* out, const T* x, S noise, int64_t count, const S* demod, const S* bias,
                   const Factors<S> f) {
  const S added = f.strength * noise;
#pragma omp simd
  for (int64_t c = 0; c < count; ++c)
    store(out + c, leaky(demod[c] * widen(x[c]) + added + bias[c], f));
}

template <typename T, typename S>
void pixel_backward(T* grad_x, const T* grad, const T* x, S noise, int64_t count, const S* demod,
                    const S* bias, const Factors<S> f, const Sums<S*> sums) {
  const S added = f.strength * noise;
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) {
    const S from = widen(x[c]), u = demod[c] * from + added + bias[c];
    const S d = widen(grad[c]) * leaky_slope(u, f);
    sums.demod[c] += d * from;
    sums.strength[c] += d * noise;
    sums.bias[c] += d;
    store(grad_x + c, demod[c] * d);
  }
}

// Calls `work(task / splits, split, begin, end)` for parts of the pixels of all tasks, over threads.
template <typename Work>
void over_parts(const Layer& l, int64_t tasks, int64_t splits, const Work& work) {
  const int64_t part = ceil_divide(l.pixels, splits);
#pragma omp parallel for if (l.n * l.channels * l.pixels > SMALL)
  for (int64_t task = 0; task < tasks * splits; ++task) {
    const int64_t split = task % splits, begin = split * part;
    work(task / splits, split, begin, std::min(begin + part, l.pixels));
  }
}

template <typename S>
Factors<S> factors(const Layer& l, const Parts<S>& p) {
  return {S(l.negative_slope), S(l.scale), p.noise ? *p.strength : S(0)};
}

template <typename T, typename S>
void forward(T* out, const T* x, const Parts<S>& p, const Layer& l) {
  const std::vector<S> silence(p.noise ? 0 : l.pixels);
  over_parts(l, l.n * l.channels, splits(l), [&](int64_t plane, int64_t, int64_t from, int64_t to) {
    const int64_t n = plane / l.channels, c = plane % l.channels, start = plane * l.pixels + from;
    const S* const noise = p.noise ? p.noise_of(l, n) : silence.data();
    plane_forward(out + start, x + start, noise + from, to - from, p.demod_of(l, n, c),
                  p.bias_of(c), factors(l, p));
  });
}

template <typename T, typename S>
void backward(T* grad_x, S* sums, const T* grad, const T* x, const Parts<S>& p, const Layer& l) {
  const std::vector<S> silence(p.noise ? 0 : l.pixels);
  const int64_t planes = l.n * l.channels;
  over_parts(l, planes, l.splits, [&](int64_t plane, int64_t split, int64_t from, int64_t to) {
    const int64_t n = plane / l.channels, c = plane % l.channels, start = plane * l.pixels + from;
    const S* const noise = p.noise ? p.noise_of(l, n) : silence.data();
    const Sums<S> sum =
        plane_backward(grad_x + start, grad + start, x + start, noise + from, to - from,
                       p.demod_of(l, n, c), p.bias_of(c), factors(l, p));
    if (!sums) return;
    sums[(0 * l.splits + split) * planes + plane] = sum.demod;
    sums[(1 * l.splits + split) * planes + plane] = sum.strength;
    sums[(2 * l.splits + split) * planes + plane] = sum.bias;
  });
}

// Gain and bias of an image's channels side by side, whether or not they are given.
template <typename S>
struct Channels {
  std::vector<S> demod, bias;

  Channels(const Parts<S>& p, const Layer& l, int64_t n) {
    for (int64_t c = 0; c < l.channels; ++c) {
      demod.push_back(p.demod_of(l, n, c));
      bias.push_back(p.bias_of(c));
    }
  }
};

template <typename T, typename S>
void forward_channels_last(T* out, const T* x, const Parts<S>& p, const Layer& l) {
  over_parts(l, l.n, splits(l), [&](int64_t n, int64_t, int64_t from, int64_t to) {
    const Channels<S> of(p, l, n);
    const S* const noise = p.noise_of(l, n);
    for (int64_t i = from; i < to; ++i) {
      const int64_t start = (n * l.pixels + i) * l.channels;
      pixel_forward(out + start, x + start, noise ? noise[i] : S(0), l.channels, of.demod.data(),
                    of.bias.data(), factors(l, p));
    }
  });
}

template <typename T, typename S>
void backward_channels_last(T* grad_x, S* sums, const T* grad, const T* x, const Parts<S>& p,
                            const Layer& l) {
  const int64_t planes = l.n * l.channels;
  over_parts(l, l.n, l.splits, [&](int64_t n, int64_t split, int64_t from, int64_t to) {
    const Channels<S> of(p, l, n);
    std::vector<S> sum(3 * l.channels);
    const Sums<S*> parts = {&sum[0], &sum[l.channels], &sum[2 * l.channels]};
    const S* const noise = p.noise_of(l, n);
    for (int64_t i = from; i < to; ++i) {
      const int64_t start = (n * l.pixels + i) * l.channels;
      pixel_backward(grad_x + start, grad + start, x + start, noise ? noise[i] : S(0), l.channels,
                     of.demod.data(), of.bias.data(), factors(l, p), parts);
    }
    for (int64_t k = 0; sums && k < 3; ++k)
      std::copy_n(sum.data() + k * l.channels, l.channels,
                  sums + (k * l.splits + split) * planes + n * l.channels);
  });
}

}  // namespace

// The type that a number stands for, as `T` in a line of code.
#define OP_DISPATCH(dtype, ...)                                   \
  switch (dtype) {                                                \
    case FLOAT32: { using T = float; __VA_ARGS__; return 0; }     \
    case FLOAT64: { using T = double; __VA_ARGS__; return 0; }    \
    case BFLOAT16: { using T = BFloat16; __VA_ARGS__; return 0; } \
    default: return 1;                                            \
  }

int32_t op_upfirdn2d(void* out, const void* x, const double* taps, const double* column,
                     const double* row, const Fir* f, int32_t dtype, void*) {
  OP_DISPATCH(dtype, fir<T>(out, x, taps, column, row, *f));
}

int32_t op_styled_leaky_relu(void* out, const void* x, const void* demod, const void* noise,
                             const void* strength, const void* bias, const Layer* l, int32_t dtype,
                             void*) {
  OP_DISPATCH(dtype, const Parts<Wide<T>::type> p(demod, noise, strength, bias);
              auto* const f = l->channels_last ? forward_channels_last<T, Wide<T>::type>
                                               : forward<T, Wide<T>::type>;
              f(static_cast<T*>(out), static_cast<const T*>(x), p, *l));
}

int32_t op_styled_leaky_relu_backward(void* grad_x, void* sums, const void* grad, const void* x,
                                      const void* demod, const void* noise, const void* strength,
                                      const void* bias, const Layer* l, int32_t dtype, void*) {
  OP_DISPATCH(dtype, using S = Wide<T>::type; const Parts<S> p(demod, noise, strength, bias);
              auto* const f = l->channels_last ? backward_channels_last<T, S> : backward<T, S>;
              f(static_cast<T*>(grad_x), static_cast<S*>(sums), static_cast<const T*>(grad),
                static_cast<const T*>(x), p, *l));
}

int64_t op_splits(const Layer* l) { return splits(*l); }

const char* op_error(int32_t) { return "this backend does not know that type"; }
