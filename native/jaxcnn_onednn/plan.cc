#include "plan.h"

#include <list>
#include <map>
#include <mutex>
#include <utility>

#if DNNL_CPU_RUNTIME == DNNL_RUNTIME_OMP
#include <omp.h>
#endif

namespace jaxcnn {
namespace {

using dnnl::memory;
using Tag = memory::format_tag;
using Key = std::vector<int64_t>;
using PlanPointer = std::shared_ptr<const Plan>;

constexpr size_t kPlans = 256;  // a network of a hundred layers has fewer than three for each

PlanPointer MakePlan(Kind kind, memory::data_type type, const Geometry& g, bool has_bias) {
  OneThread one;
  auto plan = std::make_shared<Plan>();
  const bool gradient = kind == Kind::kKernelGradient;
  const auto kernel_type = gradient ? memory::data_type::f32 : type;
  const int64_t I = g.I / g.groups, O = g.O / g.groups;
  memory::dims dims = {g.O, I, g.U, g.V}, strides = {1, g.O, g.V * I * g.O, I * g.O};
  if (g.groups > 1) {
    dims = {g.groups, O, I, g.U, g.V};
    strides = {O, 1, g.O, g.V * I * g.O, I * g.O};
  }
  plan->x = memory::desc({g.N, g.I, g.H, g.W}, type, Tag::nhwc);
  plan->y = memory::desc({g.N, g.O, g.P, g.Q}, type, Tag::nhwc);
  plan->given = memory::desc(dims, kernel_type, strides);
  if (has_bias) plan->bias = memory::desc({g.O}, kernel_type, Tag::x);

  const memory::desc any(dims, type, Tag::any), any_gradient(dims, kernel_type, Tag::any);
  const memory::dims stride = {g.stride[0], g.stride[1]}, dilation = {g.dilation[0] - 1, g.dilation[1] - 1};
  const memory::dims before = {g.padding[0], g.padding[2]}, behind = {g.padding[1], g.padding[3]};
  const auto direct = dnnl::algorithm::convolution_direct;
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);

  const auto forward = [&](dnnl::prop_kind prop, const memory::desc& bias) {
    return dnnl::convolution_forward::primitive_desc(Engine(), prop, direct, plan->x, any, bias, plan->y, stride,
                                                     dilation, before, behind, attributes);
  };
  if (kind == Kind::kForward) {
    const auto made = forward(dnnl::prop_kind::forward_inference, plan->bias);
    plan->convolution = dnnl::convolution_forward(made);
    plan->wanted = made.weights_desc();
    plan->scratch = made.scratchpad_desc();
  } else if (kind == Kind::kInputGradient) {
    const auto hint = forward(dnnl::prop_kind::forward_training, memory::desc());
    const dnnl::convolution_backward_data::primitive_desc made(Engine(), direct, plan->x, any, plan->y, stride,
                                                               dilation, before, behind, hint, attributes);
    plan->convolution = dnnl::convolution_backward_data(made);
    plan->wanted = made.weights_desc();
    plan->scratch = made.scratchpad_desc();
  } else {
    const auto hint = forward(dnnl::prop_kind::forward_training, memory::desc());
    const dnnl::convolution_backward_weights::primitive_desc made(
        Engine(), direct, plan->x, any_gradient, plan->bias, plan->y, stride, dilation, before, behind, hint,
        attributes);
    plan->convolution = dnnl::convolution_backward_weights(made);
    plan->wanted = made.diff_weights_desc();
    plan->scratch = made.scratchpad_desc();
  }
  if (plan->wanted != plan->given) {
    const auto &from = gradient ? plan->wanted : plan->given, &to = gradient ? plan->given : plan->wanted;
    const dnnl::reorder::primitive_desc made(Engine(), from, Engine(), to, attributes);
    plan->reorder = dnnl::reorder(made);
    if (made.scratchpad_desc().get_size() > plan->scratch.get_size()) plan->scratch = made.scratchpad_desc();
  }
  return plan;
}

// The plans used last; leaked, since threads of XLA's may still run when the process ends.
struct Kept {
  std::mutex mutex;
  std::list<std::pair<Key, PlanPointer>> newest_first;
  std::map<Key, decltype(newest_first)::iterator> found;
};

Kept& Plans() {
  static Kept* kept = new Kept;
  return *kept;
}

}  // namespace

PlanPointer FindPlan(Kind kind, memory::data_type type, const Geometry& g, bool bias) {
  Key key = {int64_t(kind), int64_t(type), bias, g.N, g.H, g.W, g.I, g.P, g.Q, g.O, g.U, g.V, g.groups};
  key.insert(key.end(), g.stride, g.stride + 2);
  key.insert(key.end(), g.padding, g.padding + 4);
  key.insert(key.end(), g.dilation, g.dilation + 2);
  Kept& plans = Plans();
  {
    std::lock_guard<std::mutex> lock(plans.mutex);
    const auto place = plans.found.find(key);
    if (place != plans.found.end()) {
      plans.newest_first.splice(plans.newest_first.begin(), plans.newest_first, place->second);
      return place->second->second;
    }
  }
  const PlanPointer plan = MakePlan(kind, type, g, bias);  // two threads may both make it: either will do
  std::lock_guard<std::mutex> lock(plans.mutex);
  if (plans.found.count(key)) return plan;
  plans.newest_first.emplace_front(key, plan);
  plans.found[key] = plans.newest_first.begin();
  if (plans.newest_first.size() > kPlans) {
    plans.found.erase(plans.newest_first.back().first);
    plans.newest_first.pop_back();
  }
  return plan;
}

dnnl::engine& Engine() {
  static dnnl::engine* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

dnnl::stream& Stream() {
  thread_local dnnl::stream stream(Engine());
  return stream;
}

#if DNNL_CPU_RUNTIME == DNNL_RUNTIME_OMP
OneThread::OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
OneThread::~OneThread() { omp_set_num_threads(before_); }
#else
OneThread::OneThread() : before_(0) {}
OneThread::~OneThread() {}
#endif

}  // namespace jaxcnn
