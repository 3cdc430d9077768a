// What the networks do between their matrix products, one pass over memory each. Compiled by NVRTC for the device at
// hand, without any header; tests run it on the processor (PCQA_EMULATED). Tensors are bf16, dense, rows of channels one
// after the other ([rows, width], and images [B, H, W, C]); sums, statistics and functions are computed in f32 and rounded
// once. Widths are multiples of 8 (of 32 for depthwise convolutions): `kernels.rs` asks for nothing else. This is the first
// part of one source; `kernels/` has the others.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Eight channels.
struct __align__(16) Pack {
  u32 pairs[4];
};

__device__ __forceinline__ float low(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

__device__ __forceinline__ u32 rounded(float first, float second) {
#ifdef PCQA_EMULATED
  return to_bf16(second) << 16 | to_bf16(first);
#else
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
#endif
}

__device__ __forceinline__ void unpack(float (&values)[8], const Pack& packed) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    values[2 * i] = low(packed.pairs[i]);
    values[2 * i + 1] = high(packed.pairs[i]);
  }
}

__device__ __forceinline__ Pack loaded(const void* from, u64 pack) { return reinterpret_cast<const Pack*>(from)[pack]; }

__device__ __forceinline__ void load(float (&values)[8], const void* from, u64 pack) {
  unpack(values, loaded(from, pack));
}

__device__ __forceinline__ void store(void* to, u64 pack, const float (&values)[8]) {
  Pack packed;
#pragma unroll
  for (int i = 0; i < 4; i++) packed.pairs[i] = rounded(values[2 * i], values[2 * i + 1]);
  reinterpret_cast<Pack*>(to)[pack] = packed;
}

#ifdef PCQA_EMULATED
__device__ __forceinline__ float power_of_two(float x) { return std::exp2(x); }
__device__ __forceinline__ float reciprocal(float x) { return 1.0f / x; }
#else
__device__ __forceinline__ float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#endif

// x / (1 + 2^exponent); 0 where the power is infinite or the divisor beyond 2^126, which is right here.
__device__ __forceinline__ float gated(float x, float exponent) { return x * reciprocal(1.0f + power_of_two(exponent)); }

// x / (1 + exp(-x)), the exponent by log2(e).
__device__ __forceinline__ float silu(float x) { return gated(x, -1.4426950f * x); }

// 0 nothing, 1 GELU by tanh: 0.5 (1 + tanh(u)) is 1 / (1 + exp(-2 u)), and u is sqrt(2 / pi) (x + 0.044715 x^3).
__device__ __forceinline__ float activated(float x, int pointwise) {
  return pointwise == 0 ? x : gated(x, x * (-0.10294324f * (x * x) - 2.3022082f));
}

// Shared memory of which the launch says how much it is.
__device__ __forceinline__ Pack* dynamic_shared() {
#ifdef PCQA_EMULATED
  return reinterpret_cast<Pack*>(emulated_shared);
#else
  extern __shared__ Pack packs[];
  return packs;
#endif
}

// Asks for a pack in shared memory, without waiting for it: zeros where it is not `wanted`. What was asked for until
// `asked` is one lot; `arrived` waits for all lots of this thread but the last LATER.
__device__ __forceinline__ void ask(void* to, const Pack* from, bool wanted) {
#ifdef PCQA_EMULATED
  emulated_copy(to, from, wanted);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from),
               "r"(wanted ? 16 : 0) : "memory");
#endif
}

__device__ __forceinline__ void asked() {
#ifdef PCQA_EMULATED
  emulated_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int LATER>
__device__ __forceinline__ void arrived() {
#ifdef PCQA_EMULATED
  emulated_wait(LATER);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory");
#endif
}

// Of all lanes of a group, whose number is a power of two.
template <int LANES>
__device__ __forceinline__ float sum_of(float x) {
#pragma unroll
  for (int step = LANES / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// Layer norm of rows that LANES lanes hold in PACKS packs each. With SWIGLU, x is [rows, 2 width] and what is normalised
// is silu(first half) * second half. `pending`, where there is one, is added to every row first. Lanes beyond the end read
// what others do and take part in the sums: without branches all of a lane's loads are on their way at once.
template <int LANES, int PACKS, bool SWIGLU>
__device__ __forceinline__ void norm_rows(
    const void* x, const float* pending, const void* weight, const void* bias, void* y, u64 rows, int width, float eps) {
  const int lane = threadIdx.x % LANES, packs = width / 8;
  const u64 wanted = (u64)blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES;
  const u64 row = wanted < rows ? wanted : rows - 1;
  Pack packed[PACKS], up[PACKS];
#pragma unroll
  for (int i = 0; i < PACKS; i++) {
    const int pack = min(lane + i * LANES, packs - 1);
    packed[i] = loaded(x, SWIGLU ? row * 2 * packs + pack : row * packs + pack);
    if (SWIGLU) up[i] = loaded(x, row * 2 * packs + packs + pack);
  }
  float values[PACKS][8];
#pragma unroll
  for (int i = 0; i < PACKS; i++) {
    unpack(values[i], packed[i]);
    if (SWIGLU) {
      float more[8];
      unpack(more, up[i]);
#pragma unroll
      for (int c = 0; c < 8; c++) values[i][c] = silu(values[i][c]) * more[c];
    }
  }
  if (pending != nullptr) {
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
      const float* more = pending + min(lane + i * LANES, packs - 1) * 8;
#pragma unroll
      for (int c = 0; c < 8; c++) values[i][c] += more[c];
    }
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < PACKS; i++) {
    const float counts = lane + i * LANES < packs ? 1.0f : 0.0f;
#pragma unroll
    for (int c = 0; c < 8; c++) sum += counts * values[i][c];
  }
  const float mean = sum_of<LANES>(sum) / width;
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < PACKS; i++) {
    const float counts = lane + i * LANES < packs ? 1.0f : 0.0f;
#pragma unroll
    for (int c = 0; c < 8; c++) squares += counts * (values[i][c] - mean) * (values[i][c] - mean);
  }
  const float scale = rsqrtf(sum_of<LANES>(squares) / width + eps);
  if (wanted >= rows) return;
#pragma unroll
  for (int i = 0; i < PACKS; i++) {
    const int pack = lane + i * LANES;
    if (pack >= packs) continue;
    float factors[8], terms[8];
    load(factors, weight, pack);
    load(terms, bias, pack);
#pragma unroll
    for (int c = 0; c < 8; c++) values[i][c] = (values[i][c] - mean) * scale * factors[c] + terms[c];
    store(y, row * packs + pack, values[i]);
  }
}

#define NORM(NAME, LANES, PACKS, SWIGLU)                                                                                \
  extern "C" __global__ void __launch_bounds__(256) NAME(const void* x, const float* pending, const void* weight,       \
                                                         const void* bias, void* y, u64 rows, int width, float eps) {  \
    norm_rows<LANES, PACKS, SWIGLU>(x, pending, weight, bias, y, rows, width, eps);                                     \
  }
NORM(norm_4_3, 4, 3, false)
NORM(norm_8_3, 8, 3, false)
NORM(norm_16_3, 16, 3, false)
NORM(norm_32_3, 32, 3, false)
NORM(norm_32_8, 32, 8, false)
NORM(swiglu_norm_32_8, 32, 8, true)

// y = (x / 255 - mean) / std, of the bytes of pixels with three channels.
extern "C" __global__ void __launch_bounds__(256)
    normalise(const u64* x, void* y, u32 packs, float red, float green, float blue, float by_red, float by_green,
              float by_blue) {
  const u32 pack = blockIdx.x * blockDim.x + threadIdx.x;
  if (pack >= packs) return;
  const u64 bytes = x[pack];
  // Of the first channel: eight bytes are two pixels and two channels more.
  u32 channel = pack % 3 * 2 % 3;
  float values[8];
#pragma unroll
  for (int c = 0; c < 8; c++) {
    const float mean = channel == 0 ? red : channel == 1 ? green : blue;
    const float std = channel == 0 ? by_red : channel == 1 ? by_green : by_blue;
    values[c] = ((float)(u32)(bytes >> 8 * c & 0xff) / 255.0f - mean) / std;
    channel = channel == 2 ? 0 : channel + 1;
  }
  store(y, pack, values);
}

// x = pointwise(x + bias) + shortcut, in place; bias and shortcut may be absent.
extern "C" __global__ void __launch_bounds__(256)
    finish(void* x, const void* bias, const void* shortcut, u32 packs, u32 width, int pointwise) {
  const u32 pack = blockIdx.x * blockDim.x + threadIdx.x;
  if (pack >= packs) return;
  float values[8], more[8];
  load(values, x, pack);
  if (bias != nullptr) {
    load(more, bias, pack % (width / 8));
#pragma unroll
    for (int c = 0; c < 8; c++) values[c] += more[c];
  }
#pragma unroll
  for (int c = 0; c < 8; c++) values[c] = activated(values[c], pointwise);
  if (shortcut != nullptr) {
    load(more, shortcut, pack);
#pragma unroll
    for (int c = 0; c < 8; c++) values[c] += more[c];
  }
  store(x, pack, values);
}

// Rotates q and k of [items, tokens, 3, heads, 64] in place. cos and sin are [tokens, 64]; of each head's two halves the
// cosines are the same and the sines opposite.
extern "C" __global__ void __launch_bounds__(256)
    rotate(void* qkv, const float* cos, const float* sin, u32 count, u32 tokens, u32 heads) {
  // Of a token's q and k, four a head.
  const u32 of_token = 2 * heads * 4, index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= count) return;
  const u32 token = index / of_token, part = index % of_token;
  const u64 pack = (u64)token * 3 * heads * 8 + part / 4 * 8 + part % 4;
  const u32 angle = token % tokens * 64 + part % 4 * 8;
  float first[8], second[8];
  load(first, qkv, pack);
  load(second, qkv, pack + 4);
#pragma unroll
  for (int c = 0; c < 8; c++) {
    const float a = first[c], b = second[c], cosine = cos[angle + c], sine = sin[angle + 32 + c];
    first[c] = a * cosine - b * sine;
    second[c] = b * cosine + a * sine;
  }
  store(qkv, pack, first);
  store(qkv, pack + 4, second);
}
