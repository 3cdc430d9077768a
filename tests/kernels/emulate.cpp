// Runs a kernel of src/native/kernels.cu and its further parts on the processor, one thread of the system for each of a
// block's.
//
//   emulate KERNEL BLOCKS THREADS SHARED ARGUMENT...
//
// SHARED is how many bytes of shared memory a block has beside what the kernel declares: 0xff at first, and checked for
// writes beyond. What is copied asynchronously is copied as late as the kernel lets it.
// An argument is `i:N` or `f:X` (a number; 0 for no tensor), `r:FILE` (a tensor that is read) or `w:FILE:BYTES` (one that is
// written: the file appears when all blocks are done; bytes nobody has written are 0xff). `w:FILE` is read and written.

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

struct Index {
  unsigned x;
};
thread_local Index threadIdx;
Index blockIdx, blockDim;

struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
struct uint2 {
  unsigned x, y;
};
static float2 make_float2(float x, float y) { return {x, y}; }
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

static std::unique_ptr<std::barrier<>> block;
static std::vector<std::unique_ptr<std::barrier<>>> warps;
static float exchanged[1024];

static void __syncthreads() { block->arrive_and_wait(); }
static void __syncwarp() { warps[threadIdx.x / 32]->arrive_and_wait(); }
static float __shfl_xor_sync(unsigned, float value, int step) {
  exchanged[threadIdx.x] = value;
  __syncwarp();
  const float other = exchanged[threadIdx.x ^ static_cast<unsigned>(step)];
  __syncwarp();
  return other;
}
static float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
static unsigned to_bf16(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, 4);
  return std::isnan(value) ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
static float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
static int min(int a, int b) { return a < b ? a : b; }
static int max(int a, int b) { return a > b ? a : b; }

static char* emulated_shared;

// What a thread has asked for and not waited for, by lots.
struct Copy {
  void* to;
  const void* from;
};
thread_local std::deque<std::vector<Copy>> lots(1);

static void emulated_copy(void* to, const void* from, bool wanted) { lots.back().push_back({to, wanted ? from : nullptr}); }
static void emulated_commit() { lots.emplace_back(); }
static void emulated_wait(unsigned later) {
  // The last lot is one that nobody has committed.
  for (; lots.size() > later + 1; lots.pop_front()) {
    for (const auto& copy : lots.front()) {
      if (copy.from == nullptr) {
        std::memset(copy.to, 0, 16);
      } else {
        std::memcpy(copy.to, copy.from, 16);
      }
    }
  }
}

// What mma.sync does, of which each lane has given its part.
static unsigned parts[1024][6];
static void emulated_multiply(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  std::copy(a, a + 4, parts[threadIdx.x]);
  std::copy(b, b + 2, parts[threadIdx.x] + 4);
  __syncwarp();
  const auto number = [](unsigned pair, int second) { return __uint_as_float(second ? pair & 0xffff0000 : pair << 16); };
  const auto* warp = parts + threadIdx.x / 32 * 32;
  for (int i = 0; i < 4; i++) {
    const int row = threadIdx.x % 32 / 4 + i / 2 * 8, column = threadIdx.x % 4 * 2 + i % 2;
    for (int k = 0; k < 16; k++) {
      const int lane = k % 8 / 2;
      const unsigned left = warp[row % 8 * 4 + lane][row / 8 + k / 8 * 2], right = warp[column * 4 + lane][4 + k / 8];
      sums[i] += number(left, k % 2) * number(right, k % 2);
    }
  }
  __syncwarp();
}

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
// Blocks run one after the other.
#define __shared__ static
#define PCQA_EMULATED
#include "../../src/native/kernels.cu"
#include "../../src/native/kernels/depthwise.cu"
#include "../../src/native/kernels/attention.cu"

struct Argument {
  std::vector<char> bytes;
  std::string written;
  // What the kernel takes, as the launch passes it.
  std::uint64_t value = 0;
};

static std::vector<char> read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

static Argument parsed(const std::string& text) {
  Argument made;
  if (text[0] == 'i') {
    made.value = std::strtoull(text.c_str() + 2, nullptr, 10);
  } else if (text[0] == 'f') {
    const float number = std::strtof(text.c_str() + 2, nullptr);
    std::memcpy(&made.value, &number, 4);
  } else if (text[0] == 'r') {
    made.bytes = read(text.substr(2));
  } else if (text[0] == 'w') {
    const auto colon = text.find(':', 2);
    made.written = text.substr(2, colon - 2);
    const auto is_new = colon != std::string::npos;
    made.bytes = is_new ? std::vector<char>(std::stoull(text.substr(colon + 1)), '\xff') : read(made.written);
  }
  if (text[0] == 'r' || text[0] == 'w') {
    made.value = reinterpret_cast<std::uint64_t>(made.bytes.data());
  }
  return made;
}

template <typename Parameter>
static Parameter as(const Argument& argument) {
  Parameter value;
  std::memcpy(&value, &argument.value, sizeof value);
  return value;
}

template <typename... Parameters, std::size_t... Places>
static void call(void (*kernel)(Parameters...), const std::vector<Argument>& arguments, std::index_sequence<Places...>) {
  kernel(as<Parameters>(arguments[Places])...);
}

template <typename... Parameters>
static std::function<void(const std::vector<Argument>&)> callable(void (*kernel)(Parameters...)) {
  return [kernel](const std::vector<Argument>& arguments) {
    if (arguments.size() != sizeof...(Parameters)) {
      std::fprintf(stderr, "%zu arguments, expected %zu\n", arguments.size(), sizeof...(Parameters));
      std::exit(2);
    }
    call(kernel, arguments, std::index_sequence_for<Parameters...>());
  };
}

int main(int count, char** words) {
#define KNOWN(name) {#name, callable(name)}
  const std::map<std::string, std::function<void(const std::vector<Argument>&)>> kernels = {
      KNOWN(norm_4_3),      KNOWN(norm_8_3),      KNOWN(norm_16_3),     KNOWN(norm_32_3), KNOWN(norm_32_8),
      KNOWN(swiglu_norm_32_8), KNOWN(normalise),  KNOWN(finish),        KNOWN(rotate),    KNOWN(linear_attention),
      KNOWN(depthwise_3_1), KNOWN(depthwise_3_2), KNOWN(depthwise_5_1), KNOWN(depthwise_7_1),
  };
  if (count < 5 || !kernels.contains(words[1])) {
    std::fprintf(stderr, "no such kernel\n");
    return 2;
  }
  const auto& kernel = kernels.at(words[1]);
  const unsigned blocks = std::strtoul(words[2], nullptr, 10);
  blockDim.x = std::strtoul(words[3], nullptr, 10);
  const std::size_t shared = std::strtoul(words[4], nullptr, 10), beyond = 1 << 16;
  std::vector<Argument> arguments;
  for (int i = 5; i < count; i++) {
    arguments.push_back(parsed(words[i]));
  }
  for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {
    std::vector<Pack> memory((shared + beyond) / sizeof(Pack));
    emulated_shared = reinterpret_cast<char*>(memory.data());
    std::memset(emulated_shared, 0xff, shared + beyond);
    block = std::make_unique<std::barrier<>>(blockDim.x);
    warps.clear();
    for (unsigned warp = 0; warp < blockDim.x / 32; warp++) {
      warps.push_back(std::make_unique<std::barrier<>>(32));
    }
    std::vector<std::thread> threads;
    for (unsigned thread = 0; thread < blockDim.x; thread++) {
      threads.emplace_back([&, thread] {
        threadIdx.x = thread;
        kernel(arguments);
        // A thread that has ended is waited for no more.
        block->arrive_and_drop();
        warps[thread / 32]->arrive_and_drop();
      });
    }
    for (auto& thread : threads) {
      thread.join();
    }
    if (std::any_of(emulated_shared + shared, emulated_shared + shared + beyond, [](char byte) { return byte != '\xff'; })) {
      std::fprintf(stderr, "written beyond shared memory\n");
      return 2;
    }
  }
  for (const auto& argument : arguments) {
    if (!argument.written.empty()) {
      std::ofstream(argument.written, std::ios::binary).write(argument.bytes.data(), argument.bytes.size());
    }
  }
}
