// What the networks do between their matrix products, one pass over memory each. Compiled by NVRTC for the device at
// hand, without any header; tests run it on the processor (PCQA_EMULATED). Tensors are bf16, dense, rows of channels one
// after the other ([rows, width], and images [B, H, W, C]); sums, statistics and functions are computed in f32 and rounded
// once. Widths are multiples of 8 (of 32 for depthwise convolutions): `kernels.rs` asks for nothing else.

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

// x / (1 + exp(-y)). The quick division gives 0 where the divisor is beyond 2^126, which is right here.
__device__ __forceinline__ float gated(float x, float y) { return __fdividef(x, 1.0f + __expf(-y)); }

// Of all lanes of a group, whose number is a power of two.
template <int LANES>
__device__ __forceinline__ float sum_of(float x) {
#pragma unroll
  for (int step = LANES / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// 0 nothing, 1 GELU by tanh: 0.5 (1 + tanh(u)) is 1 / (1 + exp(-2 u)).
__device__ __forceinline__ float activated(float x, int pointwise) {
  return pointwise == 0 ? x : gated(x, 1.5957691f * (x + 0.044715f * x * x * x));
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
      for (int c = 0; c < 8; c++) values[i][c] = gated(values[i][c], values[i][c]) * more[c];
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
    normalise(const u64* x, void* y, u32 packs, float red, float green, float blue, float by_red, float by_green, float by_blue) {
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

// A K x K depthwise convolution of [B, H, W, C] with zeros around it, and what comes after it. With PENDING, each pixel has
// `pending` added first, where there is one.
// A block has 32 channels, whose weights it shares, and 8 tiles; a thread computes two channels of TALL x WIDE outputs.
// weight is [K, K, C], in f32.
template <int K, int STRIDE, int TALL, int WIDE, bool PENDING>
__device__ __forceinline__ void depthwise(
    const u32* x, const float2* pending, const float2* weight, const u32* bias, u32* y, u32 tiles, int height, int width,
    u32 pairs, u32 tall, u32 wide, int pointwise) {
  constexpr int ROWS = (TALL - 1) * STRIDE + K, COLUMNS = (WIDE - 1) * STRIDE + K;
  __shared__ float2 taps[K * K][16];
  // The groups of channels of a tile come one after the other: together they read whole pixels.
  const u32 groups = pairs / 16, group = blockIdx.x % groups, lane = threadIdx.x % 16, pair = group * 16 + lane;
  for (u32 tap = threadIdx.x / 16; tap < K * K; tap += blockDim.x / 16) taps[tap][lane] = weight[tap * pairs + pair];
  __syncthreads();
  const u32 tile = blockIdx.x / groups * (blockDim.x / 16) + threadIdx.x / 16;
  if (tile >= tiles) return;
  const u32 across = (wide + WIDE - 1) / WIDE, down = (tall + TALL - 1) / TALL;
  const int left = tile % across * WIDE, top = tile / across % down * TALL;
  const u64 item = tile / across / down;
  // Where the first tap of the first output is.
  const int first_row = top * STRIDE - K / 2, first_column = left * STRIDE - K / 2;
  x += item * height * width * pairs + pair;
  y += ((item * tall + top) * wide + left) * pairs + pair;
  const float2 none = make_float2(0.0f, 0.0f);
  const float2 start = bias == nullptr ? none : make_float2(low(bias[pair]), high(bias[pair]));
  const float2 more = PENDING && pending != nullptr ? pending[pair] : none;
  float2 sums[TALL][WIDE];
#pragma unroll
  for (int i = 0; i < TALL; i++) {
#pragma unroll
    for (int j = 0; j < WIDE; j++) sums[i][j] = start;
  }
  // Unrolled, it would take NVRTC ten times as long.
#pragma unroll 1
  for (int r = 0; r < ROWS; r++) {
    const int row = first_row + r;
    if (row < 0 || row >= height) continue;
    const u32* line = x + (u64)row * width * pairs;
    // All loads are on their way before the first is used.
    u32 packed[COLUMNS];
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
      const u32 column = first_column + c;
      packed[c] = column < (u32)width ? line[column * pairs] : 0u;
    }
    float2 values[COLUMNS];
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
      values[c] = make_float2(low(packed[c]), high(packed[c]));
      if (!PENDING) continue;
      const bool inside = (u32)(first_column + c) < (u32)width;
      values[c].x += inside ? more.x : 0.0f;
      values[c].y += inside ? more.y : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < TALL; i++) {
      const int k = r - i * STRIDE;
      if (k < 0 || k >= K) continue;
#pragma unroll
      for (int l = 0; l < K; l++) {
        const float2 w = taps[k * K + l][lane];
#pragma unroll
        for (int j = 0; j < WIDE; j++) {
          sums[i][j].x += values[j * STRIDE + l].x * w.x;
          sums[i][j].y += values[j * STRIDE + l].y * w.y;
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < TALL; i++) {
#pragma unroll
    for (int j = 0; j < WIDE; j++) {
      if (top + i >= (int)tall || left + j >= (int)wide) continue;
      y[((u32)i * wide + j) * pairs] = rounded(activated(sums[i][j].x, pointwise), activated(sums[i][j].y, pointwise));
    }
  }
}

#define DEPTHWISE(K, STRIDE, TALL, WIDE, PENDING)                                                                       \
  extern "C" __global__ void __launch_bounds__(128, 3) depthwise_##K##_##STRIDE(                                           \
      const u32* x, const float2* pending, const float2* weight, const u32* bias, u32* y, u32 tiles, int height,        \
      int width, u32 pairs, u32 tall, u32 wide, int pointwise) {                                                        \
    depthwise<K, STRIDE, TALL, WIDE, PENDING>(                                                                          \
        x, pending, weight, bias, y, tiles, height, width, pairs, tall, wide, pointwise);                               \
  }
DEPTHWISE(3, 1, 4, 7, false)
DEPTHWISE(3, 2, 2, 7, false)
DEPTHWISE(5, 1, 4, 7, false)
DEPTHWISE(7, 1, 4, 7, true)

// ReLU linear attention over heads 32 wide: of each item and head, [tokens, 96] are q, k and v. The heads of `first`
// come before those of `second`; y is [items, tokens, 2 heads, 32]. One block is an item's head; its 8 warps share the
// tokens, and lane c of a warp has row c of the state, later column c.
extern "C" __global__ void __launch_bounds__(256)
    linear_attention(const void* first, const void* second, u16* y, int tokens, int heads, float eps) {
  // A warp reads several tokens at once: one by one it would wait for each.
  constexpr int AT_ONCE = 4;
  __shared__ __align__(16) float queue[8][AT_ONCE][32];
  __shared__ float state[33][33];
  const int item = blockIdx.x / (2 * heads), head = blockIdx.x % (2 * heads);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const u16* x = reinterpret_cast<const u16*>(head < heads ? first : second);
  const u64 stride = heads * 96;
  x += item * tokens * stride + head % heads * 96 + lane;
  float sums[32], total = 0.0f;
#pragma unroll
  for (int j = 0; j < 32; j++) sums[j] = 0.0f;
  for (int i = threadIdx.x; i < 33 * 33; i += 256) state[i / 33][i % 33] = 0.0f;
#pragma unroll 1
  for (int begin = warp; begin < tokens; begin += 8 * AT_ONCE) {
    float k[AT_ONCE], v[AT_ONCE];
#pragma unroll
    for (int u = 0; u < AT_ONCE; u++) {
      const int token = begin + 8 * u;
      k[u] = token < tokens ? low(x[token * stride + 32]) : 0.0f;
      v[u] = token < tokens ? low(x[token * stride + 64]) : 0.0f;
    }
    __syncwarp();
#pragma unroll
    for (int u = 0; u < AT_ONCE; u++) queue[warp][u][lane] = v[u];
    __syncwarp();
#pragma unroll
    for (int u = 0; u < AT_ONCE; u++) {
      k[u] = fmaxf(k[u], 0.0f);
#pragma unroll
      for (int j = 0; j < 8; j++) {
        const float4 four = reinterpret_cast<const float4*>(queue[warp][u])[j];
        sums[4 * j] += k[u] * four.x;
        sums[4 * j + 1] += k[u] * four.y;
        sums[4 * j + 2] += k[u] * four.z;
        sums[4 * j + 3] += k[u] * four.w;
      }
      total += k[u];
    }
  }
  __syncthreads();
  // One warp after the other, so that the sum has one order.
#pragma unroll 1
  for (int turn = 0; turn < 8; turn++) {
    if (warp == turn) {
#pragma unroll
      for (int j = 0; j < 32; j++) state[lane][j] += sums[j];
      state[lane][32] += total;
    }
    __syncthreads();
  }
  float totals[32];
#pragma unroll
  for (int i = 0; i < 32; i++) {
    sums[i] = state[i][lane];
    totals[i] = state[i][32];
  }
  y += ((u64)item * tokens * 2 * heads + head) * 32 + lane;
#pragma unroll 1
  for (int begin = warp; begin < tokens; begin += 8 * AT_ONCE) {
    float q[AT_ONCE];
#pragma unroll
    for (int u = 0; u < AT_ONCE; u++) {
      const int token = begin + 8 * u;
      q[u] = token < tokens ? low(x[token * stride]) : 0.0f;
    }
    __syncwarp();
#pragma unroll
    for (int u = 0; u < AT_ONCE; u++) queue[warp][u][lane] = fmaxf(q[u], 0.0f);
    __syncwarp();
#pragma unroll
    for (int u = 0; u < AT_ONCE; u++) {
      float out = 0.0f, weight = eps;
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const float4 four = reinterpret_cast<const float4*>(queue[warp][u])[i];
        const float each[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int c = 0; c < 4; c++) {
          out += each[c] * sums[4 * i + c];
          weight += each[c] * totals[4 * i + c];
        }
      }
      const int token = begin + 8 * u;
      if (token < tokens) y[(u64)token * 2 * heads * 32] = rounded(out / weight, 0.0f);
    }
  }
}
