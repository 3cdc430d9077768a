
// A K x K depthwise convolution of [B, H, W, C] with zeros around it, and what comes after it. With PENDING, each pixel has
// `pending` added first, where there is one. weight is [K, K, C], in f32.
//
// A block has 32 channels and 8 tiles; a thread computes two channels of a tile, TALL x WIDE outputs. 2^across by 2^down
// neighbouring tiles, which is 8 at most, are a slab, and an image is so many whole ones (`kernels.rs`). All that a block's
// slabs read is asked for at once: otherwise threads would spend their time on waiting for memory.
template <int K, int STRIDE, int TALL, int WIDE>
struct Slab {
  int left, top;
  u64 item;

  __device__ __forceinline__ Slab(u32 slab, u32 tall, u32 wide, u32 across, u32 down) {
    const u32 wide_slabs = ((wide + WIDE - 1) / WIDE) >> across, tall_slabs = ((tall + TALL - 1) / TALL) >> down;
    left = (slab % wide_slabs << across) * WIDE;
    top = (slab / wide_slabs % tall_slabs << down) * TALL;
    item = slab / wide_slabs / tall_slabs;
  }

  // Of what it reads, and where that begins.
  static __device__ __forceinline__ int rows(u32 down) { return ((TALL << down) - 1) * STRIDE + K; }
  static __device__ __forceinline__ int columns(u32 across) { return ((WIDE << across) - 1) * STRIDE + K; }
  __device__ __forceinline__ int first_row() const { return top * STRIDE - K / 2; }
  __device__ __forceinline__ int first_column() const { return left * STRIDE - K / 2; }
};

// Has a number computed here once, not in each of the branches that follow.
__device__ __forceinline__ void here(float& number) {
#ifndef PCQA_EMULATED
  asm volatile("" : "+f"(number));
#endif
}
__device__ __forceinline__ void here(u64& number) {
#ifndef PCQA_EMULATED
  asm volatile("" : "+l"(number));
#endif
}
__device__ __forceinline__ void here(u32& number) {
#ifndef PCQA_EMULATED
  asm volatile("" : "+r"(number));
#endif
}

template <int K, int STRIDE, int TALL, int WIDE, bool PENDING>
__device__ __forceinline__ void depthwise(
    const Pack* x, const float2* pending, const Pack* weight, const u32* bias, u32* y, u32 slabs, int height, int width,
    u32 pairs, u32 tall, u32 wide, u32 across, u32 down, int pointwise) {
  using Place = Slab<K, STRIDE, TALL, WIDE>;
  constexpr int ROWS = (TALL - 1) * STRIDE + K, COLUMNS = (WIDE - 1) * STRIDE + K;
  // Of a pixel's 32 channels, and of their weights.
  constexpr int PACKS = 4, TAP_PACKS = 8;
  __shared__ __align__(16) float2 taps[K * K][16];
  // The groups of channels of a slab come one after the other: together they read whole pixels.
  const u32 groups = pairs / 16, group = blockIdx.x % groups, first_slab = blockIdx.x / groups << 3 - across - down;
  const u32 lane = threadIdx.x % 16, pair = group * 16 + lane;
  const int rows = Place::rows(down), columns = Place::columns(across), slab_packs = rows * columns * PACKS;
  const u32 start = bias == nullptr ? 0 : bias[pair];
  const float2 more = PENDING && pending != nullptr ? pending[pair] : make_float2(0.0f, 0.0f);
  {
    const int pixel = threadIdx.x / PACKS, step = 128 / PACKS, width_packs = pairs / 4;
    const int step_rows = step / columns, step_columns = step % columns;
    // From a pixel to the thread's next one, in the same row or, where the slab's row ends, further down.
    const int straight = (step_rows * width + step_columns) * width_packs;
    const int wrapped = straight + (width - columns) * width_packs;
    Pack* to = dynamic_shared() + threadIdx.x;
#pragma unroll 1
    for (u32 slab = first_slab; slab < slabs && slab < first_slab + (8 >> across + down); slab++) {
      const Place place(slab, tall, wide, across, down);
      int row = place.first_row() + pixel / columns, column = place.first_column() + pixel % columns;
      const int end = place.first_column() + columns;
      const Pack* from = x + place.item * height * width * width_packs + ((long long)row * width + column) * width_packs +
                         group * PACKS + threadIdx.x % PACKS;
      Pack* into = to;
#pragma unroll 4
      for (int at = threadIdx.x; at < slab_packs; at += 128, into += 128) {
        ask(into, from, (u32)row < (u32)height && (u32)column < (u32)width);
        column += step_columns;
        row += step_rows;
        const bool wraps = column >= end;
        from += wraps ? wrapped : straight;
        if (wraps) {
          column -= columns;
          row++;
        }
      }
      to += slab_packs;
    }
    for (int at = threadIdx.x; at < K * K * TAP_PACKS; at += 128) {
      ask(&taps[0][0] + at * 2, weight + at / TAP_PACKS * (pairs / 2) + group * TAP_PACKS + at % TAP_PACKS, true);
    }
    asked();
  }
  const u32 tile = threadIdx.x / 16;
  const u32 slab = tile >> across + down;
  const int tile_left = (tile & (1 << across) - 1) * WIDE, tile_top = (tile >> across & (1 << down) - 1) * TALL;
  const Place place(first_slab + slab, tall, wide, across, down);
  const int left = place.left + tile_left, top = place.top + tile_top;
  // Where the first tap of the first output is.
  const int first_row = top * STRIDE - K / 2, first_column = left * STRIDE - K / 2;
  float inside[COLUMNS];
#pragma unroll
  for (int c = 0; c < COLUMNS; c++) {
    inside[c] = (u32)(first_column + c) < (u32)width ? 1.0f : 0.0f;
    if (PENDING) here(inside[c]);
  }
  arrived<0>();
  __syncthreads();
  if (first_slab + slab >= slabs) return;
  const u32* line = reinterpret_cast<const u32*>(dynamic_shared() + slab * slab_packs) +
                    (tile_top * STRIDE * columns + tile_left * STRIDE) * 16 + lane;
  const float2* tap = &taps[0][lane];
  float2 sums[TALL][WIDE];
#pragma unroll
  for (int i = 0; i < TALL; i++) {
#pragma unroll
    for (int j = 0; j < WIDE; j++) sums[i][j] = make_float2(low(start), high(start));
  }
  u64 outputs = ((place.item * tall + top) * wide + left) * pairs + pair;
  here(outputs);
  const int down_left = tall - top, across_left = wide - left;
  // Unrolled, it would take NVRTC ten times as long.
#pragma unroll 1
  for (int r = 0; r < ROWS; r++, line += columns * 16, tap += K * 16) {
    if ((u32)(first_row + r) >= (u32)height) continue;
    float2 values[COLUMNS];
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
      values[c] = make_float2(low(line[c * 16]), high(line[c * 16]));
      // As products that are added, masks take fewer registers than what would be added everywhere.
      if (PENDING) values[c] = make_float2(fmaf(inside[c], more.x, values[c].x), fmaf(inside[c], more.y, values[c].y));
      here(values[c].x);
      here(values[c].y);
    }
#pragma unroll
    for (int i = 0; i < TALL; i++) {
      const int k = r - i * STRIDE;
      if (k < 0 || k >= K) continue;
#pragma unroll
      for (int l = 0; l < K; l++) {
        const float2 w = tap[(l - i * STRIDE * K) * 16];
#pragma unroll
        for (int j = 0; j < WIDE; j++) {
          sums[i][j].x += values[j * STRIDE + l].x * w.x;
          sums[i][j].y += values[j * STRIDE + l].y * w.y;
        }
      }
    }
  }
  const auto write = [&](int function) {
#pragma unroll
    for (int i = 0; i < TALL; i++) {
      if (i >= down_left) return;
      u32* to = y + outputs + (u64)i * wide * pairs;
#pragma unroll
      for (int j = 0; j < WIDE; j++) {
        u32 made = rounded(activated(sums[i][j].x, function), activated(sums[i][j].y, function));
        here(made);
        if (j < across_left) *to = made;
        to += pairs;
      }
    }
  };
  if (pointwise == 0) {
    write(0);
  } else {
    write(1);
  }
}

#define DEPTHWISE(K, STRIDE, TALL, WIDE, PENDING, BLOCKS)                                                               \
  extern "C" __global__ void __launch_bounds__(128, BLOCKS) depthwise_##K##_##STRIDE(                                   \
      const Pack* x, const float2* pending, const Pack* weight, const u32* bias, u32* y, u32 slabs, int height,         \
      int width, u32 pairs, u32 tall, u32 wide, u32 across, u32 down, int pointwise) {                                  \
    depthwise<K, STRIDE, TALL, WIDE, PENDING>(x, pending, weight, bias, y, slabs, height, width, pairs, tall, wide,     \
                                              across, down, pointwise);                                                 \
  }
DEPTHWISE(3, 1, 7, 7, false, 4)
DEPTHWISE(3, 2, 2, 7, false, 6)
DEPTHWISE(5, 1, 7, 7, false, 3)
DEPTHWISE(7, 1, 7, 7, true, 3)
