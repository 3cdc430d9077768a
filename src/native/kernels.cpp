// Our own kernels (`kernels.cu`, `kernels/`), part of the second shim: compiled by NVRTC, which comes with libtorch's CUDA
// part and was loaded before, for the device at hand.

#include "guarded.h"

#include <c10/cuda/CUDAStream.h>
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

// Kernels need bf16 conversions of this compute capability.
constexpr int LEAST_MAJOR = 8;

template <typename Function>
Function* found(const char* name) {
  void* function = dlsym(RTLD_DEFAULT, name);
  if (function == nullptr) {
    throw std::runtime_error(std::string(name) + " is not there");
  }
  return reinterpret_cast<Function*>(function);
}

void check(CUresult result, const char* what) {
  if (result != CUDA_SUCCESS) {
    const char* text = nullptr;
    found<decltype(cuGetErrorString)>("cuGetErrorString")(result, &text);
    throw std::runtime_error(std::string(what) + ": " + (text == nullptr ? "unknown error" : text));
  }
}

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
  }
}

// NVRTC's own header is not among those that come with libtorch; its functions give 0 where all went well.
struct Compiler {
  using Program = void*;
  int (*create)(Program*, const char*, const char*, int, const char* const*, const char* const*) =
      found<int(Program*, const char*, const char*, int, const char* const*, const char* const*)>("nvrtcCreateProgram");
  int (*compile)(Program, int, const char* const*) = found<int(Program, int, const char* const*)>("nvrtcCompileProgram");
  int (*log_bytes)(Program, size_t*) = found<int(Program, size_t*)>("nvrtcGetProgramLogSize");
  int (*log)(Program, char*) = found<int(Program, char*)>("nvrtcGetProgramLog");
  int (*code_bytes)(Program, size_t*) = found<int(Program, size_t*)>("nvrtcGetCUBINSize");
  int (*code)(Program, char*) = found<int(Program, char*)>("nvrtcGetCUBIN");
  int (*destroy)(Program*) = found<int(Program*)>("nvrtcDestroyProgram");

  std::vector<char> machine_code(const char* source, const std::string& architecture) const {
    Program program = nullptr;
    if (create(&program, source, "kernels.cu", 0, nullptr, nullptr) != 0) {
      throw std::runtime_error("NVRTC takes no program");
    }
    const char* options[] = {architecture.c_str(), "--std=c++17"};
    const int failed = compile(program, 2, options);
    size_t bytes = 0;
    std::vector<char> made;
    if (failed) {
      log_bytes(program, &bytes);
      made.resize(bytes);
      log(program, made.data());
    } else {
      code_bytes(program, &bytes);
      made.resize(bytes);
      code(program, made.data());
    }
    destroy(&program);
    if (failed) {
      throw std::runtime_error("NVRTC: " + std::string(made.begin(), made.end()));
    }
    return made;
  }
};

int attribute(int32_t device, cudaDeviceAttr name) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, name, device), "the device's properties");
  return value;
}

} // namespace

extern "C" {

// Compiles `source`, always the same, for `device`, whose it is then for good.
char* pcqa_kernels_compile(int32_t device, const char* source, void** module) {
  return guarded([&] {
    const int major = attribute(device, cudaDevAttrComputeCapabilityMajor);
    const int minor = attribute(device, cudaDevAttrComputeCapabilityMinor);
    const std::string version = std::to_string(major) + std::to_string(minor);
    if (major < LEAST_MAJOR) {
      throw std::runtime_error("the device has compute capability " + version + ", 80 is needed");
    }
    // Devices of one kind run the same code.
    static std::mutex compiling;
    static std::map<std::string, std::vector<char>> compiled;
    const std::lock_guard lock(compiling);
    std::vector<char>& code = compiled[version];
    if (code.empty()) {
      code = Compiler().machine_code(source, "--gpu-architecture=sm_" + version);
    }
    check(cudaSetDevice(device), "the device");
    check(cudaFree(nullptr), "the device's context");
    auto* load = found<decltype(cuModuleLoadData)>("cuModuleLoadData");
    check(load(reinterpret_cast<CUmodule*>(module), code.data()), "loading the kernels");
  });
}

// `shared`: the most bytes of shared memory that the kernel is launched with, beside what it declares.
char* pcqa_kernels_find(void* module, const char* name, uint32_t shared, void** kernel) {
  return guarded([&] {
    auto* get = found<decltype(cuModuleGetFunction)>("cuModuleGetFunction");
    auto* function = reinterpret_cast<CUfunction*>(kernel);
    check(get(function, static_cast<CUmodule>(module), name), name);
    if (shared == 0) {
      return;
    }
    // Of what the cache and shared memory divide between them, such kernels gain by the latter alone.
    auto* set = found<decltype(cuFuncSetAttribute)>("cuFuncSetAttribute");
    check(set(*function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, static_cast<int>(shared)), name);
    check(set(*function, CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, CU_SHAREDMEM_CARVEOUT_MAX_SHARED), name);
  });
}

// Asks for the kernel on this thread's stream, with `shared` bytes of shared memory a block beside what it declares.
// `arguments` point to the values that it is declared with.
char* pcqa_kernels_launch(
    void* kernel, int32_t device, uint32_t blocks, uint32_t threads, uint32_t shared, void** arguments) {
  return guarded([&] {
    static auto* launch = found<decltype(cuLaunchKernel)>("cuLaunchKernel");
    const auto stream = c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(device));
    const auto function = static_cast<CUfunction>(kernel);
    check(launch(function, blocks, 1, 1, threads, 1, 1, shared, stream.stream(), arguments, nullptr), "a kernel");
  });
}

} // extern "C"
