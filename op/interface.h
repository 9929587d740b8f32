// What a compiled backend exports: plain C, so that it needs no PyTorch headers, compiles in
// seconds, and outlives PyTorch's versions. `op/native.py` is the other side: keep them alike.
//
// Images are [outer, height, width, inner] without gaps: contiguous NCHW is outer = N·C, inner = 1,
// and channels_last is outer = N, inner = C. So one kernel serves both memory formats.
#pragma once
#include <cstdint>

#if defined(_WIN32)
#define OP_EXPORT extern "C" __declspec(dllexport)
#else
#define OP_EXPORT extern "C" __attribute__((visibility("default")))
#endif

constexpr int MAX_TAPS = 256;  // of a filter, so that it travels as an argument of a kernel

enum DType : int32_t { FLOAT32 = 0, FLOAT64 = 1, FLOAT16 = 2, BFLOAT16 = 3 };

// `upfirdn2d`: sizes in pixels; `pad` counts upsampled pixels before the image, negative crops.
struct Fir {
  int64_t outer, in_h, in_w, inner, out_h, out_w;
  int32_t up_y, up_x, down_y, down_x, pad_y, pad_x, taps_y, taps_x;
  int32_t separable;  // whether `column` and `row` below are given
};

// `styled_leaky_relu`: x is [n, channels, pixels], or [n, pixels, channels] if channels_last.
struct Layer {
  int64_t n, channels, pixels;
  int32_t channels_last;
  int32_t noise_n;  // 1: the same noise for all images; n: each its own
  int64_t splits;   // of the sums in the backward pass, from op_splits
  double negative_slope, scale;
};

// The demodulation, noise, bias, strength and sums are float32, or float64 where x is. Every
// function returns 0, or what cudaGetLastError says. `stream` is a cudaStream_t; the CPU ignores
// it.
//
// out[y, x] = Σ taps[i, j] · upsampled[y·down + i − pad, x·down + j − pad]
//   taps [taps_y, taps_x]: in host memory, already flipped; column [taps_y] and row [taps_x]: two
//   filters whose product it is.
OP_EXPORT int32_t op_upfirdn2d(void* out, const void* x, const double* taps, const double* column,
                               const double* row, const Fir* fir, int32_t dtype, void* stream);

// out = scale · leaky_relu(demod[n, c] · x + strength · noise[n, pixel] + bias[c])
//   demod (the demodulation), noise with strength, bias: null to leave out.
OP_EXPORT int32_t op_styled_leaky_relu(void* out, const void* x, const void* demod,
                                       const void* noise, const void* strength, const void* bias,
                                       const Layer* layer, int32_t dtype, void* stream);

// With d = grad · scale · (1 or negative_slope, by the sign before the activation):
//   grad_x = demod · d; sums [3, splits, n, channels]: parts of Σ d·x, Σ d·noise, Σ d over the
//   pixels of a plane, the gradients of demod, strength and bias; null where none is wanted.
OP_EXPORT int32_t op_styled_leaky_relu_backward(void* grad_x, void* sums, const void* grad,
                                                const void* x, const void* demod, const void* noise,
                                                const void* strength, const void* bias,
                                                const Layer* layer, int32_t dtype, void* stream);

// Into how many parts the sums of such a layer are best split.
OP_EXPORT int64_t op_splits(const Layer* layer);

// The text of an error that one of the above returned.
OP_EXPORT const char* op_error(int32_t code);
