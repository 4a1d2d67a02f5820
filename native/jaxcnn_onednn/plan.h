// A plan is one of oneDNN's convolution primitives, made for one shape, with the reorder of its kernel; plans are kept.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"

namespace jaxcnn {

enum class Kind : int64_t { kForward, kInputGradient, kKernelGradient };

// One correlation: x (N, H, W, I) with weight (U, V, I / groups, O) gives y (N, P, Q, O), in the letters of the book.
struct Geometry {
  int64_t N, H, W, I, P, Q, O, U, V, groups;
  int64_t stride[2], padding[4], dilation[2];  // padding: top, bottom, left, right

  int64_t x_size() const { return H * W * I; }  // of a sample
  int64_t y_size() const { return P * Q * O; }
  int64_t weight_size() const { return U * V * (I / groups) * O; }
  double multiply_adds() const { return double(N) * P * Q * weight_size(); }
};

struct Plan {
  dnnl::primitive convolution, reorder;  // the reorder is empty where oneDNN wants the kernel as it lies
  dnnl::memory::desc x, y, bias, given, wanted, scratch;  // the kernel's layout: JAX's own, and oneDNN's
  bool reorders() const { return static_cast<bool>(reorder); }
};

// Kept for the next call; of many shapes those used last. A gradient of the kernel is in float32 for every type.
std::shared_ptr<const Plan> FindPlan(Kind kind, dnnl::memory::data_type type, const Geometry& geometry, bool bias);

dnnl::engine& Engine();
dnnl::stream& Stream();  // of this thread

// While it lives, oneDNN runs in the thread that calls it alone; that thread may be the user's own, hence taken back.
class OneThread {
 public:
  OneThread();
  ~OneThread();

 private:
  int before_;
};

}  // namespace jaxcnn
