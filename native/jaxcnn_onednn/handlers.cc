// Forward, dx and dweight of a convolution, the last with norms of samples or without, as calls that XLA makes; the
// shapes are checked once more, here.
//
// Every array may have a dimension more in front: B convolutions of the same shape, as jax.vmap makes them.

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <sstream>
#include <string>
#include <unordered_map>

#include "parallel.h"
#include "plan.h"

namespace ffi = xla::ffi;

namespace jaxcnn {
namespace {

using Array = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;
using Window = ffi::Span<const int64_t>;  // stride, padding (top, bottom, left, right), dilation, groups
using Dims = ffi::Span<const int64_t>;

constexpr double kLeast = 1e6;  // multiply-adds that are worth a second thread
constexpr int64_t kParts = 1 << 28;  // bytes of all parts of one gradient of a kernel

struct Problem {
  Geometry geometry;
  int64_t batches;  // B
  dnnl::memory::data_type type;
  size_t bytes;  // of an entry
};

ffi::Error Invalid(const std::string& sentence) {
  return ffi::Error(ffi::ErrorCode::kInvalidArgument, "jaxcnn_onednn: " + sentence);
}

std::string Text(Dims dims) {
  std::ostringstream text;
  for (size_t i = 0; i < dims.size(); i++) text << (i ? ", " : "(") << dims[i];
  return text.str() + ")";
}

// The problem that x, weight and y are, or the sentence that says why they are none.
ffi::ErrorOr<Problem> Understand(Array x, Array weight, Array y, Window window) {
  const Dims xs = x.dimensions(), ws = weight.dimensions(), ys = y.dimensions();
  const auto shapes = [&] { return "x " + Text(xs) + ", weight " + Text(ws) + " and y " + Text(ys); };
  const size_t front = xs.size() - 4;
  if ((xs.size() != 4 && xs.size() != 5) || ws.size() != xs.size() || ys.size() != xs.size())
    return ffi::Unexpected(Invalid(shapes() + " must have 4 dimensions, or 5 each"));
  if (window.size() != 9) return ffi::Unexpected(Invalid("window is " + Text(window) + " but must have 9 entries"));
  for (const int64_t entry : window)
    if (entry < 0 || entry > INT32_MAX)
      return ffi::Unexpected(Invalid("window is " + Text(window) + " but must be from 0 to 2^31 - 1"));

  Problem problem{};
  if (x.element_type() == ffi::F32) {
    problem.type = dnnl::memory::data_type::f32, problem.bytes = 4;
  } else if (x.element_type() == ffi::BF16) {
    problem.type = dnnl::memory::data_type::bf16, problem.bytes = 2;
  } else {
    return ffi::Unexpected(Invalid("x must be of float32 or bfloat16"));
  }
  problem.batches = front ? xs[0] : 1;
  const int64_t* a = xs.begin() + front;
  const int64_t* b = ws.begin() + front;
  const int64_t* c = ys.begin() + front;
  Geometry& g = problem.geometry;
  g = {a[0], a[1], a[2], a[3], c[1], c[2], c[3], b[0], b[1], window[8], {}, {}, {}};
  std::copy_n(window.begin(), 2, g.stride);
  std::copy_n(window.begin() + 2, 4, g.padding);
  std::copy_n(window.begin() + 6, 2, g.dilation);
  const auto entries = [&](int axis, int64_t n, int64_t k) {
    const int64_t room = n + g.padding[2 * axis] + g.padding[2 * axis + 1] - g.dilation[axis] * (k - 1) - 1;
    return room < 0 ? 0 : room / g.stride[axis] + 1;
  };
  const bool positive = std::min({g.stride[0], g.stride[1], g.dilation[0], g.dilation[1], g.groups, problem.batches,
                                  g.N, g.H, g.W, g.I, g.P, g.Q, g.O, g.U, g.V}) > 0;
  if (!positive || (front && (ws[0] != xs[0] || ys[0] != xs[0])) || c[0] != g.N || g.I % g.groups ||
      g.O % g.groups || b[2] != g.I / g.groups || b[3] != g.O || entries(0, g.H, g.U) != g.P ||
      entries(1, g.W, g.V) != g.Q)
    return ffi::Unexpected(Invalid(shapes() + " do not fit together under the window " + Text(window)));
  if (weight.element_type() != x.element_type() || y.element_type() != x.element_type())
    return ffi::Unexpected(Invalid("x, weight and y must be of one type"));
  return problem;
}

Array Plain(Array array) { return array; }
Array Plain(Result result) { return *result; }

// b or db, of those arrays that a call may have: null if there is none, refused if it does not fit.
template <typename Arrays>
ffi::ErrorOr<void*> Bias(const Arrays& rest, const Problem& problem, ffi::DataType type) {
  if (rest.size() == 0) return nullptr;
  const auto given = rest.template get<Array>(0);
  if (given.has_error()) return ffi::Unexpected(given.error());
  const Array bias = Plain(*given);
  if (bias.element_count() != size_t(problem.batches * problem.geometry.O) || bias.element_type() != type)
    return ffi::Unexpected(Invalid("the bias must have an entry for each output map, of the type of x"));
  return bias.untyped_data();
}

// How many pieces the N samples of one convolution are cut into.
int64_t Pieces(ffi::ThreadPool& pool, const Geometry& g) {
  const int64_t most = std::min(g.N, std::max<int64_t>(pool.num_threads(), 1));
  return int64_t(std::clamp(g.multiply_adds() / kLeast, 1.0, double(most)));
}

// Of nothing, a bias that there is not, nothing.
void* At(void* data, int64_t entries, size_t bytes) {
  return data == nullptr ? nullptr : static_cast<char*>(data) + entries * int64_t(bytes);
}

dnnl::memory Memory(const dnnl::memory::desc& description, void* data) {
  return dnnl::memory(description, Engine(), data);
}

dnnl::memory Scratch(const Plan& plan, Workspace& workspace) {
  return Memory(plan.scratch, workspace.Bytes(plan.scratch.get_size()));
}

// The kernel as the plan wants it, in memory of `workspace` unless that is as it lies.
void* Ordered(const Plan& plan, void* kernel, Workspace& workspace) {
  if (!plan.reorders()) return kernel;
  Workspace scratch;
  void* ordered = workspace.Bytes(plan.wanted.get_size());
  plan.reorder.execute(Stream(), {{DNNL_ARG_FROM, Memory(plan.given, kernel)},
                                  {DNNL_ARG_TO, Memory(plan.wanted, ordered)},
                                  {DNNL_ARG_SCRATCHPAD, Scratch(plan, scratch)}});
  Stream().wait();
  return ordered;
}

// Pages of 2 MiB for what is about to be written, where the system has them: a step's arrays beyond 32 MiB are new to the
// process in every step, and a quarter of a convolution's time went into its pages of 4 KiB.
void InLargePages(void* data, size_t size) {
  constexpr uintptr_t kPage = 2 << 20;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data), end = begin + size;
  const uintptr_t from = begin / kPage * kPage, to = (end + kPage - 1) / kPage * kPage;
  if (size >= kPage) madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
}

// Forward and dx: pieces of the batch, each written to its own place. `input` is x or dy, `output` y or dx.
std::string Correlate(ffi::ThreadPool& pool, Kind kind, const Problem& problem, void* input, void* kernel, void* bias,
                      void* output) {
  const Geometry& whole = problem.geometry;
  const bool forward = kind == Kind::kForward;
  const int64_t in_size = forward ? whole.x_size() : whole.y_size();
  const int64_t out_size = forward ? whole.y_size() : whole.x_size();
  const int64_t pieces = problem.batches == 1 ? Pieces(pool, whole) : 1;
  InLargePages(output, problem.batches * whole.N * out_size * problem.bytes);
  Geometry piece = whole;
  piece.N = (whole.N + pieces - 1) / pieces;
  const auto first = FindPlan(kind, problem.type, piece, bias != nullptr);
  Workspace kernels;  // for all pieces
  void* shared = kernel;
  if (problem.batches == 1) {
    OneThread one;
    shared = Ordered(*first, kernel, kernels);
  }
  return Parallel(pool, problem.batches * pieces, [&](int64_t i) {
    const int64_t batch = i / pieces, from = whole.N * (i % pieces) / pieces, to = whole.N * (i % pieces + 1) / pieces;
    Geometry mine = whole;
    mine.N = to - from;
    const auto plan = mine.N == piece.N ? first : FindPlan(kind, problem.type, mine, bias != nullptr);
    Workspace own, scratch;
    void* ordered = problem.batches == 1 && plan->wanted == first->wanted
                        ? shared
                        : Ordered(*plan, At(kernel, batch * whole.weight_size(), problem.bytes), own);
    const int64_t sample = batch * whole.N + from;
    std::unordered_map<int, dnnl::memory> arguments = {
        {forward ? DNNL_ARG_SRC : DNNL_ARG_DIFF_DST,
         Memory(forward ? plan->x : plan->y, At(input, sample * in_size, problem.bytes))},
        {DNNL_ARG_WEIGHTS, Memory(plan->wanted, ordered)},
        {forward ? DNNL_ARG_DST : DNNL_ARG_DIFF_SRC,
         Memory(forward ? plan->y : plan->x, At(output, sample * out_size, problem.bytes))},
        {DNNL_ARG_SCRATCHPAD, Scratch(*plan, scratch)}};
    if (bias != nullptr) arguments.emplace(DNNL_ARG_BIAS, Memory(plan->bias, At(bias, batch * whole.O, problem.bytes)));
    plan->convolution.execute(Stream(), arguments);
    Stream().wait();
  });
}

// The squared norm of `found`, which is added to `sum`; this reads more than it computes, so wide registers count.
__attribute__((target_clones("avx512f", "avx2", "default"))) double Added(const float* found, int64_t size, float* sum) {
  double square = 0;
#pragma omp simd reduction(+ : square)
  for (int64_t k = 0; k < size; k++) {
    square += double(found[k]) * found[k];
    sum[k] += found[k];
  }
  return square;
}

// dweight, and dbias unless that is null, of the samples of one piece, in float32. Unless `squares` is null, sample by
// sample, and the squared norm of what each of them adds is written there.
void GradientOf(const Problem& problem, int64_t first, int64_t samples, void* x, void* dy, float* dweight, float* dbias,
                float* squares) {
  const Geometry& whole = problem.geometry;
  Geometry mine = whole;
  mine.N = squares == nullptr ? samples : 1;
  const auto plan = FindPlan(Kind::kKernelGradient, problem.type, mine, dbias != nullptr);
  Workspace own, scratch;
  void* ordered = plan->reorders() ? own.Bytes(plan->wanted.get_size()) : dweight;
  const dnnl::memory found = Memory(plan->wanted, ordered), result = Memory(plan->given, dweight);
  const dnnl::memory room = Scratch(*plan, scratch);
  std::unordered_map<int, dnnl::memory> arguments = {
      {DNNL_ARG_SRC, Memory(plan->x, At(x, first * whole.x_size(), problem.bytes))},
      {DNNL_ARG_DIFF_DST, Memory(plan->y, At(dy, first * whole.y_size(), problem.bytes))},
      {DNNL_ARG_DIFF_WEIGHTS, found},
      {DNNL_ARG_SCRATCHPAD, room}};
  if (dbias != nullptr) arguments.emplace(DNNL_ARG_DIFF_BIAS, Memory(plan->bias, dbias));
  if (squares == nullptr) {
    plan->convolution.execute(Stream(), arguments);
  } else {  // in the layout of the plan, whose padding oneDNN fills with zeros
    Workspace single;
    const int64_t size = plan->wanted.get_size() / sizeof(float), of_bias = dbias == nullptr ? 0 : whole.O;
    float *one = static_cast<float*>(single.Bytes((size + of_bias) * sizeof(float))), *sum = static_cast<float*>(ordered);
    std::fill_n(sum, size, 0.0f);
    std::fill_n(dbias, of_bias, 0.0f);
    found.set_data_handle(one);
    if (dbias != nullptr) arguments.at(DNNL_ARG_DIFF_BIAS).set_data_handle(one + size);
    for (int64_t n = first; n < first + samples; n++) {
      arguments.at(DNNL_ARG_SRC).set_data_handle(At(x, n * whole.x_size(), problem.bytes));
      arguments.at(DNNL_ARG_DIFF_DST).set_data_handle(At(dy, n * whole.y_size(), problem.bytes));
      plan->convolution.execute(Stream(), arguments);
      Stream().wait();
      squares[n] = float(Added(one, size, sum) + Added(one + size, of_bias, dbias));
    }
    found.set_data_handle(sum);
  }
  if (plan->reorders())
    plan->reorder.execute(Stream(), {{DNNL_ARG_FROM, found}, {DNNL_ARG_TO, result}, {DNNL_ARG_SCRATCHPAD, room}});
  Stream().wait();
}

void Write(const float* from, int64_t size, dnnl::memory::data_type type, void* to) {
  if (type == dnnl::memory::data_type::f32) {
    std::memcpy(to, from, size * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < size; i++) {  // bfloat16, rounded to even
    uint32_t bits;
    std::memcpy(&bits, from + i, 4);
    const bool nan = (bits & 0x7fffffff) > 0x7f800000;
    static_cast<uint16_t*>(to)[i] = nan ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
}

std::string Gradient(ffi::ThreadPool& pool, const Problem& problem, void* x, void* dy, void* dweight, void* dbias,
                     float* squares) {
  const Geometry& whole = problem.geometry;
  const int64_t size = whole.weight_size(), both = size + (dbias == nullptr ? 0 : whole.O);
  const auto found_in = [&](float* found, int64_t first, int64_t samples) {
    GradientOf(problem, first, samples, x, dy, found, dbias == nullptr ? nullptr : found + size, squares);
  };
  const auto write = [&](const float* found, int64_t batch) {
    Write(found, size, problem.type, At(dweight, batch * size, problem.bytes));
    if (dbias != nullptr) Write(found + size, whole.O, problem.type, At(dbias, batch * whole.O, problem.bytes));
  };
  if (problem.batches > 1) {  // each batch is a piece, with a gradient of its own
    InLargePages(dweight, problem.batches * size * problem.bytes);
    return Parallel(pool, problem.batches, [&](int64_t batch) {
      if (problem.type == dnnl::memory::data_type::f32) {
        GradientOf(problem, batch * whole.N, whole.N, x, dy, static_cast<float*>(At(dweight, batch * size, 4)),
                   static_cast<float*>(At(dbias, batch * whole.O, 4)), squares);
        return;
      }
      Workspace workspace;
      float* found = static_cast<float*>(workspace.Bytes(both * sizeof(float)));
      found_in(found, batch * whole.N, whole.N);
      write(found, batch);
    });
  }
  const int64_t pieces = std::clamp<int64_t>(kParts / (both * int64_t(sizeof(float))), 1, Pieces(pool, whole));
  Workspace workspace;  // for all pieces
  float* parts = static_cast<float*>(workspace.Bytes(pieces * both * sizeof(float)));
  const std::string error = Parallel(pool, pieces, [&](int64_t i) {
    const int64_t from = whole.N * i / pieces, to = whole.N * (i + 1) / pieces;
    found_in(parts + i * both, from, to - from);
  });
  if (!error.empty()) return error;
  for (int64_t i = 1; i < pieces; i++)  // always in this order, so that a second run gives the same bits
    for (int64_t k = 0; k < both; k++) parts[k] += parts[i * both + k];
  write(parts, 0);
  return "";
}

ffi::Error Answer(const std::function<std::string()>& work) {
  std::string error;
  try {
    error = work();
  } catch (const std::exception& found) {
    error = found.what();
  }
  return error.empty() ? ffi::Error::Success() : ffi::Error(ffi::ErrorCode::kInternal, "jaxcnn_onednn: " + error);
}

ffi::Error Forward(ffi::ThreadPool pool, Array x, Array weight, ffi::RemainingArgs rest, Result y, Window window) {
  const auto problem = Understand(x, weight, *y, window);
  if (problem.has_error()) return problem.error();
  const auto bias = Bias(rest, *problem, x.element_type());
  if (bias.has_error()) return bias.error();
  return Answer([&] {
    return Correlate(pool, Kind::kForward, *problem, x.untyped_data(), weight.untyped_data(), *bias, y->untyped_data());
  });
}

ffi::Error InputGradient(ffi::ThreadPool pool, Array dy, Array weight, Result dx, Window window) {
  const auto problem = Understand(*dx, weight, dy, window);
  if (problem.has_error()) return problem.error();
  return Answer([&] {
    return Correlate(pool, Kind::kInputGradient, *problem, dy.untyped_data(), weight.untyped_data(), nullptr,
                     dx->untyped_data());
  });
}

ffi::Error KernelGradient(ffi::ThreadPool pool, Array x, Array dy, Result dweight, ffi::RemainingRets rest,
                          Window window) {
  const auto problem = Understand(x, *dweight, dy, window);
  if (problem.has_error()) return problem.error();
  const auto dbias = Bias(rest, *problem, x.element_type());
  if (dbias.has_error()) return dbias.error();
  return Answer([&] {
    return Gradient(pool, *problem, x.untyped_data(), dy.untyped_data(), dweight->untyped_data(), *dbias, nullptr);
  });
}

ffi::Error KernelGradientAndSquares(ffi::ThreadPool pool, Array x, Array dy, Result dweight, Result squares,
                                    ffi::RemainingRets rest, Window window) {
  const auto problem = Understand(x, *dweight, dy, window);
  if (problem.has_error()) return problem.error();
  const auto dbias = Bias(rest, *problem, x.element_type());
  if (dbias.has_error()) return dbias.error();
  if (squares->element_type() != ffi::F32 ||
      squares->element_count() != size_t(problem->batches * problem->geometry.N))
    return Invalid("squares must have an entry for each sample, of float32");
  return Answer([&] {
    return Gradient(pool, *problem, x.untyped_data(), dy.untyped_data(), dweight->untyped_data(), *dbias,
                    squares->typed_data<float>());
  });
}

auto Bound() { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Array>().Arg<Array>(); }

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_correlate, Forward,
                              Bound().RemainingArgs().Ret<Array>().Attr<Window>("window"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_input_gradient, InputGradient, Bound().Ret<Array>().Attr<Window>("window"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_kernel_gradient, KernelGradient,
                              Bound().Ret<Array>().RemainingRets().Attr<Window>("window"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_kernel_gradient_and_squares, KernelGradientAndSquares,
                              Bound().Ret<Array>().Ret<Array>().RemainingRets().Attr<Window>("window"));

}  // namespace jaxcnn

static bool Has(dnnl::cpu_isa wanted) {  // each set of instructions has the bits of those that it includes
  return (int(dnnl::get_effective_cpu_isa()) & int(wanted)) == int(wanted);
}

extern "C" int jaxcnn_avx2() { return Has(dnnl::cpu_isa::avx2); }
extern "C" int jaxcnn_bfloat16() { return Has(dnnl::cpu_isa::avx512_core_bf16); }

extern "C" const char* jaxcnn_onednn_version() {
  static const std::string text = [] {
    const auto* version = dnnl_version();
    return std::to_string(version->major) + "." + std::to_string(version->minor) + "." + std::to_string(version->patch);
  }();
  return text.c_str();
}
