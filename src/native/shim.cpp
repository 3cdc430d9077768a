// What tch does not reach of libtorch and no CUDA header is needed for. Every call gives nullptr, or what went wrong as
// a string for pcqa_free. Devices are CUDA devices by their index; nothing here may be asked of one before
// libtorch_cuda.so is loaded.

#include "guarded.h"

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Tensor.h>
#include <ATen/ops/_addmm_activation.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/stack.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

namespace {

c10::Device cuda(int32_t index) {
  return c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index));
}

// Starts libtorch's CUDA part where nothing has yet.
c10::impl::VirtualGuardImpl guard() {
  at::globalContext().lazyInitDevice(c10::DeviceType::CUDA);
  return c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA);
}

std::vector<at::Tensor> listed(void** tensors, size_t count) {
  std::vector<at::Tensor> all;
  for (size_t i = 0; i < count; i++) {
    all.push_back(*static_cast<at::Tensor*>(tensors[i]));
  }
  return all;
}

} // namespace

extern "C" {

void pcqa_free(char* text) {
  std::free(text);
}

// This thread's tensors know nothing of autograd until the mode is left, on the same thread and in reverse order.
char* pcqa_inference_mode_enter(void** mode) {
  return guarded([&] { *mode = new c10::InferenceMode(true); });
}

void pcqa_inference_mode_leave(void* mode) {
  delete static_cast<c10::InferenceMode*>(mode);
}

// f32 is IEEE single precision in matrix products and convolutions, never TF32; sums of bf16 products are kept in f32.
char* pcqa_exact_arithmetic() {
  return guarded([] {
    at::Context& context = at::globalContext();
    context.setAllowTF32CuBLAS(false);
    context.setAllowTF32CuDNN(false);
    context.setAllowBF16ReductionCuBLAS(false, /*allow_splitk=*/true);
  });
}

// Gives this thread `index` as its device and a stream of its own there, unless it has one: neither it nor the default
// one waits for the other.
char* pcqa_own_stream(int32_t index) {
  return guarded([&] {
    const auto impl = guard();
    impl.setDevice(cuda(index));
    if (impl.getStream(cuda(index)) == impl.getDefaultStream(cuda(index))) {
      impl.synchronizeDevice(cuda(index).index());
      impl.exchangeStream(impl.getStreamFromGlobalPool(cuda(index)));
    }
  });
}

// Waits for what this thread has asked of the device.
char* pcqa_wait(int32_t index) {
  return guarded([&] {
    const auto impl = guard();
    impl.synchronizeStream(impl.getStream(cuda(index)));
  });
}

// Another stream than the one that this thread asks on.
char* pcqa_stream_new(int32_t index, int64_t* stream) {
  return guarded([&] {
    const auto impl = guard();
    c10::Stream made = impl.getStreamFromGlobalPool(cuda(index));
    if (made == impl.getStream(cuda(index))) {
      made = impl.getStreamFromGlobalPool(cuda(index));
    }
    *stream = made.id();
  });
}

// From now on this thread asks on `stream`; gives the one that it asked on before.
char* pcqa_stream_enter(int32_t index, int64_t stream, int64_t* before) {
  return guarded([&] {
    *before = guard().exchangeStream(c10::Stream(c10::Stream::UNSAFE, cuda(index), stream)).id();
  });
}

// The end of what this thread's stream has been asked until now.
char* pcqa_event_new(int32_t index, void** event) {
  return guarded([&] {
    const auto impl = guard();
    auto made = std::make_unique<c10::Event>(c10::DeviceType::CUDA, c10::EventFlag::BACKEND_DEFAULT);
    made->record(impl.getStream(cuda(index)));
    *event = made.release();
  });
}

// What this thread's stream is asked from now on waits for it; this thread does not.
char* pcqa_event_hold(int32_t index, void* event) {
  return guarded([&] { static_cast<c10::Event*>(event)->block(guard().getStream(cuda(index))); });
}

char* pcqa_event_wait(void* event) {
  return guarded([&] { static_cast<c10::Event*>(event)->synchronize(); });
}

char* pcqa_event_has_passed(void* event, bool* passed) {
  return guarded([&] { *passed = static_cast<c10::Event*>(event)->query(); });
}

// Between two events that have passed.
char* pcqa_event_elapsed(void* first, void* second, double* milliseconds) {
  return guarded([&] { *milliseconds = static_cast<c10::Event*>(first)->elapsedTime(*static_cast<c10::Event*>(second)); });
}

void pcqa_event_delete(void* event) {
  delete static_cast<c10::Event*>(event);
}

// An error where the device has failed for good; gives nothing else.
char* pcqa_is_alive(int32_t index) {
  return guarded([&] {
    const auto impl = guard();
    impl.queryStream(impl.getStream(cuda(index)));
  });
}

// `tensor` moves to memory that devices read without the processor's help.
char* pcqa_pin(void* tensor) {
  return guarded([&] {
    auto* pinned = static_cast<at::Tensor*>(tensor);
    *pinned = pinned->pin_memory();
  });
}

// Asks for a copy and does not wait for it where `from` is pinned.
char* pcqa_copy(void* to, void* from) {
  return guarded([&] { static_cast<at::Tensor*>(to)->copy_(*static_cast<at::Tensor*>(from), /*non_blocking=*/true); });
}

// GELU by tanh of x wT + bias as one operation, rows by rows. tch's own binding asks for ReLU.
char* pcqa_linear_gelu(void* x, void* weight, void* bias, void** y) {
  return guarded([&] {
    const at::Tensor transposed = static_cast<at::Tensor*>(weight)->t();
    const auto& rows = *static_cast<at::Tensor*>(x);
    *y = new at::Tensor(at::_addmm_activation(*static_cast<at::Tensor*>(bias), rows, transposed, 1, 1, /*use_gelu=*/true));
  });
}

// The global norm of `count` tensors.
char* pcqa_norm(void** tensors, size_t count, double* norm) {
  return guarded([&] {
    const auto norms = at::_foreach_norm(listed(tensors, count), 2);
    *norm = at::stack(norms).to(at::kDouble).norm().item<double>();
  });
}

// One step of AdamW over `count` parameters on one device, with their gradients multiplied by `factor`. `steps` is the
// number of this step, a scalar in f32 there.
char* pcqa_adamw(
    void** parameters, void** gradients, void** means, void** squares, size_t count, void* steps, double factor, double rate,
    double beta1, double beta2, double weight_decay, double eps) {
  return guarded([&] {
    // Not in place: two parameters may share a gradient. Of a convolution's weight it may be laid out otherwise.
    auto scaled = at::_foreach_mul(listed(gradients, count), factor);
    for (auto& gradient : scaled) {
      gradient = gradient.contiguous();
    }
    const std::vector<at::Tensor> each(count, *static_cast<at::Tensor*>(steps));
    at::_fused_adamw_(
        listed(parameters, count), scaled, listed(means, count), listed(squares, count), {}, each, rate, beta1, beta2,
        weight_decay, eps, /*amsgrad=*/false, /*maximize=*/false);
  });
}

// Gives memory that no tensor holds back to the devices.
char* pcqa_empty_cache() {
  return guarded([] { c10::getDeviceAllocator(c10::DeviceType::CUDA)->emptyCache(); });
}

// Bytes that tensors hold, that this process holds, that nobody holds, and that there are.
char* pcqa_memory(int32_t index, int64_t* bytes) {
  return guarded([&] {
    guard();
    auto* allocator = c10::getDeviceAllocator(c10::DeviceType::CUDA);
    const auto stats = allocator->getDeviceStats(cuda(index).index());
    constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    bytes[0] = stats.allocated_bytes[all].current;
    bytes[1] = stats.reserved_bytes[all].current;
    const auto [available, total] = allocator->getMemoryInfo(cuda(index).index());
    bytes[2] = static_cast<int64_t>(available);
    bytes[3] = static_cast<int64_t>(total);
  });
}

} // extern "C"
