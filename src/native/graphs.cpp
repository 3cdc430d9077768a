// What needs CUDA's headers and libtorch_cuda.so: loaded behind it, at run time and only where there is one. Every call
// gives nullptr, or what went wrong as a string for free().

#include "guarded.h"

#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstring>
#include <mutex>
#include <stdexcept>

namespace {

// A device's generator of random numbers knows its graphs, and no lock guards what it knows.
std::mutex graphs;

struct Graph {
  Graph(int32_t device, const uint64_t* pool)
      : device(static_cast<c10::DeviceIndex>(device)), pool(pool[0], pool[1]) {}

  // Kept, or the end of the capture would be the instantiation too, and which of the two failed could not be told.
  at::cuda::CUDAGraph graph{/*keep_graph=*/true};
  bool has_ended = false;
  c10::DeviceIndex device;
  at::MempoolId_t pool;
};

template <typename Body>
void ignoring_errors(Body body) {
  try {
    body();
  } catch (...) {
  }
}

} // namespace

extern "C" {

char* pcqa_device_name(int32_t device, char* name, size_t bytes) {
  return guarded([&] {
    cudaDeviceProp properties;
    const cudaError_t error = cudaGetDeviceProperties(&properties, device);
    if (error != cudaSuccess) {
      throw std::runtime_error(cudaGetErrorString(error));
    }
    strncpy(name, properties.name, bytes - 1);
  });
}

char* pcqa_compute_capability(int32_t device, int32_t* major) {
  return guarded([&] {
    const cudaError_t error = cudaDeviceGetAttribute(major, cudaDevAttrComputeCapabilityMajor, device);
    if (error != cudaSuccess) {
      throw std::runtime_error(cudaGetErrorString(error));
    }
  });
}

// libtorch takes no more than this share of the device's memory.
char* pcqa_memory_cap(int32_t device, double fraction) {
  return guarded([&] {
    c10::cuda::CUDACachingAllocator::setMemoryFraction(fraction, static_cast<c10::DeviceIndex>(device));
  });
}

// A name for memory that graphs have in common which never run at the same time.
char* pcqa_graph_pool(uint64_t* pool) {
  return guarded([&] {
    const at::MempoolId_t id = at::cuda::graph_pool_handle();
    pool[0] = id.first;
    pool[1] = id.second;
  });
}

// From here on this thread's work on its stream, which may not be the default one, is recorded and not done. Other
// threads may go on using the device.
char* pcqa_graph_begin(int32_t device, const uint64_t* pool, void** graph) {
  return guarded([&] {
    auto* made = new Graph(device, pool);
    // From now on the caller's, who abandons it where this fails.
    *graph = made;
    const std::lock_guard lock(graphs);
    made->graph.capture_begin(made->pool, cudaStreamCaptureModeThreadLocal);
  });
}

char* pcqa_graph_end(void* graph) {
  return guarded([&] {
    const std::lock_guard lock(graphs);
    auto* made = static_cast<Graph*>(graph);
    made->graph.capture_end();
    made->has_ended = true;
    made->graph.instantiate();
  });
}

// After what was to be captured has failed: this thread's stream and the allocator do again what they are asked. A graph
// of which the capture itself cannot be ended is left to leak, since the allocator may still know it.
void pcqa_graph_abandon(void* graph) {
  const std::lock_guard lock(graphs);
  auto* failed = static_cast<Graph*>(graph);
  if (!failed->has_ended) {
    ignoring_errors([&] {
      failed->graph.capture_end();
      failed->has_ended = true;
    });
  }
  if (failed->has_ended) {
    ignoring_errors([&] { delete failed; });
  } else {
    ignoring_errors([&] { c10::cuda::CUDACachingAllocator::endAllocateToPool(failed->device, failed->pool); });
    ignoring_errors([&] { at::getHostAllocator(c10::DeviceType::CUDA)->end_allocate_to_pool(failed->pool); });
  }
  cudaGetLastError();
}

char* pcqa_graph_replay(void* graph) {
  return guarded([&] { static_cast<Graph*>(graph)->graph.replay(); });
}

void pcqa_graph_delete(void* graph) {
  const std::lock_guard lock(graphs);
  ignoring_errors([&] { delete static_cast<Graph*>(graph); });
}

} // extern "C"
