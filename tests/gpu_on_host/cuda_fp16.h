// Enough of CUDA for a C++ compiler to run kernels on the CPU, block after block. Every thread of a
// block is a fibre: it runs up to `__syncthreads`, where it lets the next one run, so that all have
// come there before any goes on. What a GPU would refuse is an error here too.
#pragma once
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static  // blocks run one after another, so they may share it
#define __launch_bounds__(threads)

struct dim3 {
  unsigned x, y, z;
  explicit dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  uint64_t count() const { return uint64_t(x) * y * z; }
};

inline dim3 gridDim, blockDim, blockIdx, threadIdx;

struct __half {
  _Float16 value;
};
inline float __half2float(__half x) { return x.value; }
inline __half __float2half(float x) { return {_Float16(x)}; }

inline int launch_error = 0;
constexpr int cudaErrorInvalidValue = 1;
using cudaError_t = int;
inline int cudaGetLastError() { return std::exchange(launch_error, 0); }
inline const char* cudaGetErrorString(cudaError_t) { return "a launch that a GPU refuses"; }

inline dim3 place(uint64_t i, const dim3& whole) {
  return dim3(unsigned(i % whole.x), unsigned(i / whole.x % whole.y),
              unsigned(i / whole.x / whole.y));
}

// The threads of a block.
class Fibres {
 public:
  explicit Fibres(unsigned count) : fibres_(count) {
    for (Fibre& fibre : fibres_) fibre.stack = std::make_unique<char[]>(STACK);
  }

  void run(const std::function<void()>& kernel) {
    kernel_ = &kernel;
    for (unsigned i = 0; i < fibres_.size(); ++i) begin(i);
    for (bool alive = true; alive;) {
      alive = false;
      for (current_ = 0; current_ < fibres_.size(); ++current_) {
        if (fibres_[current_].done) continue;
        alive = true;
        threadIdx = place(current_, blockDim);
        swapcontext(&scheduler_, &fibres_[current_].context);
      }
    }
  }

  void pause() { swapcontext(&fibres_[current_].context, &scheduler_); }

  static inline Fibres* running = nullptr;

 private:
  static constexpr size_t STACK = 64 * 1024;
  struct Fibre {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool done;
  };

  static void body() {
    Fibres& all = *running;
    (*all.kernel_)();
    all.fibres_[all.current_].done = true;
  }

  void begin(unsigned i) {
    Fibre& fibre = fibres_[i];
    fibre.done = false;
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.get();
    fibre.context.uc_stack.ss_size = STACK;
    fibre.context.uc_link = &scheduler_;
    makecontext(&fibre.context, body, 0);
  }

  std::vector<Fibre> fibres_;
  ucontext_t scheduler_;
  unsigned current_ = 0;
  const std::function<void()>* kernel_ = nullptr;
};

inline void __syncthreads() {
  const dim3 me = threadIdx;
  Fibres::running->pause();
  threadIdx = me;
}

template <typename Kernel>
void launch(dim3 grid, dim3 block, Kernel kernel) {
  const bool fits = grid.count() > 0 && grid.x < (1u << 31) && grid.y <= 65535 &&
                    grid.z <= 65535 && block.count() <= 1024 && block.z <= 64;
  if (!fits) {
    launch_error = 9;
    return;
  }
  gridDim = grid, blockDim = block;
  Fibres fibres{unsigned(block.count())};
  Fibres::running = &fibres;
  for (uint64_t i = 0; i < grid.count(); ++i) {
    blockIdx = place(i, grid);
    fibres.run(kernel);
  }
}

#define OP_UNWRAP(...) __VA_ARGS__
#define OP_LAUNCH(kernel, grid, block, stream, ...) \
  launch(grid, block, [&] { (void)(stream); OP_UNWRAP kernel(__VA_ARGS__); })
