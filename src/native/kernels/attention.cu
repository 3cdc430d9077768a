
// sums += a b of 16 x 16 and 16 x 8 bf16, by a warp. With p = lane / 4 and q = lane % 4, a lane holds, two in a word, the
// first of them low:
// a     columns 2 q and 2 q + 1 of row p, of row p + 8, then columns 2 q + 8 and 2 q + 9 of both rows,
// b     rows 2 q and 2 q + 1 of column p, then rows 2 q + 8 and 2 q + 9,
// sums  columns 2 q and 2 q + 1 of row p, then of row p + 8.
__device__ __forceinline__ void multiply(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#ifdef PCQA_EMULATED
  emulated_multiply(sums, a, b);
#else
  // Volatile: it must not move to where not all lanes come.
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Of two pairs, both first numbers or both second ones.
__device__ __forceinline__ u32 paired(u32 one, u32 other, int second) {
  return second ? one >> 16 | other & 0xffff0000u : one & 0xffffu | other << 16;
}

// max(x, 0) of both; what is no number stays none.
__device__ __forceinline__ u32 positive(u32 pair) {
#ifdef PCQA_EMULATED
  const auto one = [](u32 bits) { return (bits & 0x7fffu) <= 0x7f80u && bits >> 15 ? 0u : bits; };
  return one(pair >> 16) << 16 | one(pair & 0xffffu);
#else
  u32 made;
  asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(made) : "r"(pair), "r"(0u));
  return made;
#endif
}

// ReLU linear attention over heads 32 wide: of each item and head, [tokens, 96] are q, k and v. The heads of `first`
// come before those of `second`; y is [items, tokens, 2 heads, 32].
//
// One block is an item's head. Its warps share the tokens, 16 at a time, for the state, the sums over tokens of v k and of
// k, and then for the outputs, q times the state. Keys and values of `held` tokens, a multiple of 16, are asked for at once,
// and queries too. Tensor cores multiply bf16 exactly and sum in f32; the state, which is f32, is multiplied as two bf16, of
// which the second is what the first lacks.
//
// A lane reads pairs of channels, and what is a matrix's row or column p to the tensor cores are channels 2 p + parity of
// one half of a head: `half` and `parity` (or `of_key` for the parity of a key's channel) say which, wherever they stand
// below. So sums are, lane by lane, where the next product takes them.
extern "C" __global__ void __launch_bounds__(128, 4)
    linear_attention(const Pack* first, const Pack* second, uint2* y, int tokens, int heads, int held, float eps) {
  // Packs of a token and of its query: gaps keep the lanes of a warp on different banks.
  constexpr int WARPS = 4, PAIR = 9, QUERY = 6, FOURS = 10;
  const int item = blockIdx.x / (2 * heads), head = blockIdx.x % (2 * heads);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, p = lane / 4, q = lane % 4;
  const int stride = heads * 12;
  const Pack* x = (head < heads ? first : second) + (u64)item * tokens * stride + head % heads * 12;
  // Keys with values, where the warps' states come later; then queries.
  Pack* pairs = dynamic_shared();
  Pack* queries = pairs + max(held * PAIR, WARPS * FOURS * 32);
  const auto ask_queries = [&](int begin) {
    for (int i = threadIdx.x; i < held * 4; i += 128) {
      const int token = begin + i / 4;
      ask(queries + i / 4 * QUERY + i % 4, x + (u64)token * stride + i % 4, token < tokens);
    }
    asked();
  };
  // [parity of v][half and parity of k]; of the last, whose rows are all the same, come the sums of k.
  float sums[3][4][4] = {};
#pragma unroll 1
  for (int begin = 0; begin < tokens; begin += held) {
    if (begin > 0) __syncthreads();
    for (int i = threadIdx.x; i < held * 8; i += 128) {
      const int token = begin + i / 8;
      ask(pairs + i / 8 * PAIR + i % 8, x + (u64)token * stride + 4 + i % 8, token < tokens);
    }
    asked();
    if (begin == 0) {
      ask_queries(0);
      arrived<1>();
    } else {
      arrived<0>();
    }
    __syncthreads();
#pragma unroll 1
    for (int tile = warp * 16; tile < min(held, tokens - begin); tile += WARPS * 16) {
      const u32* token = reinterpret_cast<const u32*>(pairs + (tile + 2 * q) * PAIR) + p;
      u32 values[2][4], keys[4][2];
#pragma unroll
      for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int later = 0; later < 2; later++) {
          const u32* one = token + (later * 8 * PAIR + 2 * half) * 4;
          const u32* other = one + PAIR * 4;
          const u32 k[2] = {positive(one[0]), positive(other[0])}, v[2] = {one[16], other[16]};
#pragma unroll
          for (int parity = 0; parity < 2; parity++) {
            values[parity][2 * later + half] = paired(v[0], v[1], parity);
            keys[2 * half + parity][later] = paired(k[0], k[1], parity);
          }
        }
      }
      const u32 ones[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
#pragma unroll
      for (int key = 0; key < 4; key++) {
        multiply(sums[0][key], values[0], keys[key]);
        multiply(sums[1][key], values[1], keys[key]);
        multiply(sums[2][key], ones, keys[key]);
      }
    }
  }
  __syncthreads();
  float4* states = reinterpret_cast<float4*>(pairs) + lane;
#pragma unroll
  for (int four = 0; four < 8; four++) {
    const float* s = sums[four / 4][four % 4];
    states[(warp * FOURS + four) * 32] = make_float4(s[0], s[1], s[2], s[3]);
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float *even = sums[2][2 * half], *odd = sums[2][2 * half + 1];
    states[(warp * FOURS + 8 + half) * 32] = make_float4(even[0], even[1], odd[0], odd[1]);
  }
  __syncthreads();
  // What the first bf16 holds and what it lacks, of [parity of v][half of v][half of k][parity of k], and of sums of k.
  u32 state[2][2][2][2][2], total[2][2][2];
  const auto split = [](float one, float other, u32& held, u32& lacked) {
    held = rounded(one, other);
    lacked = rounded(one - low(held), other - high(held));
  };
#pragma unroll
  for (int four = 0; four < FOURS; four++) {
    // Of all warps in one order, by every warp for itself.
    float4 sum = states[four * 32];
#pragma unroll
    for (int other = 1; other < WARPS; other++) {
      const float4 more = states[(other * FOURS + four) * 32];
      sum = make_float4(sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w);
    }
    if (four < 8) {
      const int parity = four / 4, half = four / 2 % 2, of_key = four % 2;
      split(sum.x, sum.y, state[0][parity][0][half][of_key], state[1][parity][0][half][of_key]);
      split(sum.z, sum.w, state[0][parity][1][half][of_key], state[1][parity][1][half][of_key]);
    } else {
      split(sum.x, sum.y, total[0][four - 8][0], total[1][four - 8][0]);
      split(sum.z, sum.w, total[0][four - 8][1], total[1][four - 8][1]);
    }
  }
  y += ((u64)item * tokens * 2 * heads + head) * 8 + q;
#pragma unroll 1
  for (int begin = 0; begin < tokens; begin += held) {
    if (begin > 0) {
      __syncthreads();
      ask_queries(begin);
    }
    arrived<0>();
    __syncthreads();
#pragma unroll 1
    for (int tile = warp * 16; tile < min(held, tokens - begin); tile += WARPS * 16) {
      // [half of k]: channels 4 q to 4 q + 3 of two tokens.
      u32 asking[2][4];
#pragma unroll
      for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int later = 0; later < 2; later++) {
          const u32* query = reinterpret_cast<const u32*>(queries + (tile + p + 8 * later) * QUERY) + 8 * half + 2 * q;
          const uint2 two = *reinterpret_cast<const uint2*>(query);
          const u32 one = positive(two.x), other = positive(two.y);
          asking[half][later] = paired(one, other, 0);
          asking[half][later + 2] = paired(one, other, 1);
        }
      }
      // [half of v][parity of v]; the weights of a token are in all columns.
      float out[2][2][4] = {}, weights[4] = {eps, eps, eps, eps};
#pragma unroll
      for (int piece = 0; piece < 2; piece++) {
#pragma unroll
        for (int of_key = 0; of_key < 2; of_key++) {
#pragma unroll
          for (int of_value = 0; of_value < 4; of_value++) {
            multiply(out[of_value / 2][of_value % 2], asking[of_key], state[piece][of_value % 2][of_value / 2][of_key]);
          }
          multiply(weights, asking[of_key], total[piece][of_key]);
        }
      }
#pragma unroll
      for (int later = 0; later < 2; later++) {
        const int token = begin + tile + p + 8 * later;
        if (token >= tokens) continue;
        const float by = reciprocal(weights[2 * later]);
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const float *even = out[half][0] + 2 * later, *odd = out[half][1] + 2 * later;
          const uint2 four = {rounded(even[0] * by, odd[0] * by), rounded(even[1] * by, odd[1] * by)};
          y[(u64)token * 2 * heads * 8 + half * 4] = four;
        }
      }
    }
  }
}
