// What OlmoeDecoder does to one new token of each row, in float32 on one thread: root-mean-square norm, attention with
// rotary positions over a cache of keys and values, and experts. `native.py` is the only caller.
//
// torch takes several calls for each of these, and its products of few tokens leave most of a core idle. Sums may be
// taken in any order here, but a NaN stays one.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__)
#define FOR_EVERY_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EVERY_CPU
#endif
#define INLINE inline __attribute__((always_inline))  // into the function that is compiled for every CPU

namespace {

constexpr int64_t LANES = 16, TILE_COLUMNS = 2 * LANES;
constexpr int TILE_ROWS = 6;  // whatever is left has a case in `multiply`

typedef float Lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float)), may_alias));

INLINE float dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// e^x within 2 units in the last place where it is neither below 1e-38 nor infinite, and e^±88 beyond: 2^n e^r with
// |r| <= ln 2 / 2 and a polynomial for e^r (Cephes). Written for the compiler to do many at a time.
INLINE float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float n = __builtin_floorf(x * 1.44269504f + 0.5f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float y = 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  const int32_t bits = (int32_t(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return y * power;
}

INLINE void norm(const float* x, const float* weight, float epsilon, int64_t width, float* out) {
  const float factor = 1.0f / std::sqrt(dot(x, x, width) / float(width) + epsilon);
  for (int64_t i = 0; i < width; ++i) out[i] = x[i] * factor * weight[i];
}

INLINE float clamped(float x, float limit) { return x > limit ? limit : x < -limit ? -limit : x; }

// One head at a position: `rotation` is (2, width), cosines and sines, those of the first half with the sign of -sin.
INLINE void rotate(const float* x, const float* rotation, int64_t width, float limit, float* out) {
  const float *cosines = rotation, *sines = rotation + width;
  const int64_t half = width / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float a = clamped(x[i], limit), b = clamped(x[i + half], limit);
    out[i] = a * cosines[i] + b * sines[i];
    out[i + half] = b * cosines[i + half] + a * sines[i + half];
  }
}

// Into the cache, what will be read soon: the processor's own prefetching ends with a page, and a head with a few.
INLINE void prefetch(const float* place, int64_t width) {
  for (int64_t i = 0; i < width; i += LANES) __builtin_prefetch(place + i);
}

// out (width) = softmax(query keys / sqrt(width)) values; keys and values (seen, width), and `next` keys after them.
INLINE void attend_head(const float* query, const float* keys, const float* values, const float* next, int64_t seen,
                        int64_t width, float* shares, float* out) {
  const float scale = 1.0f / std::sqrt(float(width));
  float most = -INFINITY, total = 0;
  for (int64_t t = 0; t < seen; ++t) {
    prefetch(values + t * width, width);
    shares[t] = dot(query, keys + t * width, width) * scale;
    most = shares[t] > most ? shares[t] : most;
  }
  for (int64_t t = 0; t < seen; ++t) total += shares[t] = exponential(shares[t] - most);
  int64_t i = 0;
  for (; i + TILE_COLUMNS <= width; i += TILE_COLUMNS) {
    Lanes left = {}, right = {};
    for (int64_t t = 0; t < seen; ++t) {
      prefetch(next + t * width + i, TILE_COLUMNS);
      left += shares[t] * *reinterpret_cast<const Lanes*>(values + t * width + i);
      right += shares[t] * *reinterpret_cast<const Lanes*>(values + t * width + i + LANES);
    }
    *reinterpret_cast<Lanes*>(out + i) = left / total;
    *reinterpret_cast<Lanes*>(out + i + LANES) = right / total;
  }
  for (; i < width; ++i) {
    float sum = 0;
    for (int64_t t = 0; t < seen; ++t) sum += shares[t] * values[t * width + i];
    out[i] = sum / total;
  }
}

// ROWS rows and TILE_COLUMNS columns of out (…, n) = a (…, k) b (k, n); the sums stay in registers.
template <int ROWS>
INLINE void multiply_tile(const float* a, const float* b, int64_t k, int64_t n, float* out) {
  Lanes sums[ROWS][2] = {};
  for (int64_t i = 0; i < k; ++i) {
    const Lanes left = *reinterpret_cast<const Lanes*>(b + i * n);
    const Lanes right = *reinterpret_cast<const Lanes*>(b + i * n + LANES);
    for (int row = 0; row < ROWS; ++row) {
      sums[row][0] += a[row * k + i] * left;
      sums[row][1] += a[row * k + i] * right;
    }
  }
  for (int row = 0; row < ROWS; ++row) {
    *reinterpret_cast<Lanes*>(out + row * n) = sums[row][0];
    *reinterpret_cast<Lanes*>(out + row * n + LANES) = sums[row][1];
  }
}

// out (rows, n) = a (rows, k) b (k, n).
INLINE void multiply(const float* a, int64_t rows, const float* b, int64_t k, int64_t n, float* out) {
  int64_t column = 0;
  for (; column + TILE_COLUMNS <= n; column += TILE_COLUMNS) {
    const float* part = b + column;
    int64_t row = 0;
    for (; row + TILE_ROWS <= rows; row += TILE_ROWS)
      multiply_tile<TILE_ROWS>(a + row * k, part, k, n, out + row * n + column);
    const float* rest = a + row * k;
    float* place = out + row * n + column;
    switch (rows - row) {
      case 5: multiply_tile<5>(rest, part, k, n, place); break;
      case 4: multiply_tile<4>(rest, part, k, n, place); break;
      case 3: multiply_tile<3>(rest, part, k, n, place); break;
      case 2: multiply_tile<2>(rest, part, k, n, place); break;
      case 1: multiply_tile<1>(rest, part, k, n, place); break;
    }
  }
  if (column == n) return;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t j = column; j < n; ++j) out[row * n + j] = 0;
    for (int64_t i = 0; i < k; ++i)
      for (int64_t j = column; j < n; ++j) out[row * n + j] += a[row * k + i] * b[i * n + j];
  }
}

}  // namespace

extern "C" {

int32_t bai_native_version() { return 1; }

// x, out (rows, width); weight (width).
FOR_EVERY_CPU void bai_norm(const float* x, const float* weight, float epsilon, int64_t rows, int64_t width,
                            float* out) {
  for (int64_t row = 0; row < rows; ++row) norm(x + row * width, weight, epsilon, width, out + row * width);
}

// projected (rows, (heads + 2 kv_heads) width): queries, keys and values of one new token a row, as they come from the
// projections. rotations (capacity, 2, width). keys, values (rows, kv_heads, capacity, width): the new ones are written
// to column `end - 1`, and row b sees its lengths[b] + 1 columns up to there. out (rows, heads width).
// Returns 0, or 1 + the first row without a column or a rotation for its token; nothing is written then.
FOR_EVERY_CPU int64_t bai_attend(const float* projected, int64_t rows, int64_t heads, int64_t kv_heads, int64_t width,
                                 const float* query_norm, const float* key_norm, float epsilon, float limit,
                                 const float* rotations, const int64_t* lengths, float* keys, float* values,
                                 int64_t capacity, int64_t end, float* out) {
  for (int64_t row = 0; row < rows; ++row)
    if (lengths[row] < 0 || lengths[row] >= end || end > capacity) return 1 + row;
  const int64_t queries = heads * width, others = kv_heads * width, group = heads / kv_heads;
  std::vector<float> scratch(queries + others + width + capacity);
  float *query = scratch.data(), *key = query + queries, *rotated = key + others, *shares = rotated + width;
  for (int64_t row = 0; row < rows; ++row) {
    const float *own = projected + row * (queries + 2 * others), *value = own + queries + others;
    const float* rotation = rotations + lengths[row] * 2 * width;
    const int64_t seen = lengths[row] + 1;
    norm(own, query_norm, epsilon, queries, query);
    norm(own + queries, key_norm, epsilon, others, key);
    for (int64_t head = 0; head < kv_heads; ++head) {
      const int64_t first = ((row * kv_heads + head) * capacity + end - seen) * width, last = (seen - 1) * width;
      rotate(key + head * width, rotation, width, limit, keys + first + last);
      for (int64_t i = 0; i < width; ++i) values[first + last + i] = clamped(value[head * width + i], limit);
      for (int64_t member = head * group; member < (head + 1) * group; ++member) {
        rotate(query + member * width, rotation, width, limit, rotated);
        const bool again = member + 1 < (head + 1) * group, ends = row + 1 == rows && head + 1 == kv_heads;
        const float* next = keys + first + (again || ends ? 0 : capacity * width);
        attend_head(rotated, keys + first, values + first, next, seen, width, shares,
                    out + row * queries + member * width);
      }
    }
  }
  return 0;
}

// hidden, out (rows, width); chosen, weights (rows, each): the experts of every row, below `experts`; gate_up
// (experts, width, 2 inner), down (experts, inner, width).
// Returns 0, or 1 + the first entry of `chosen` that is no expert; nothing is written then.
FOR_EVERY_CPU int64_t bai_experts(const float* hidden, int64_t rows, int64_t width, const int64_t* chosen,
                                  const float* weights, int64_t each, const float* gate_up, const float* down,
                                  int64_t experts, int64_t inner, float* out) {
  std::vector<int64_t> starts(experts + 1), order(rows * each);
  for (int64_t i = 0; i < rows * each; ++i) {
    if (chosen[i] < 0 || chosen[i] >= experts) return 1 + i;
    ++starts[chosen[i] + 1];
  }
  const int64_t most = *std::max_element(starts.begin(), starts.end());
  for (int64_t expert = 0; expert < experts; ++expert) starts[expert + 1] += starts[expert];
  std::vector<int64_t> next(starts.begin(), starts.end() - 1);
  for (int64_t i = 0; i < rows * each; ++i) order[next[chosen[i]]++] = i;
  std::vector<float> scratch(most * (2 * width + 3 * inner));
  float *in = scratch.data(), *both = in + most * width, *product = both + most * 2 * inner;
  float* result = product + most * inner;
  std::memset(out, 0, size_t(rows * width) * sizeof(float));
  for (int64_t expert = 0; expert < experts; ++expert) {
    const int64_t* own = order.data() + starts[expert];
    const int64_t count = starts[expert + 1] - starts[expert];
    for (int64_t i = 0; i < count; ++i)
      std::memcpy(in + i * width, hidden + own[i] / each * width, size_t(width) * sizeof(float));
    multiply(in, count, gate_up + expert * width * 2 * inner, width, 2 * inner, both);
    for (int64_t i = 0; i < count; ++i) {
      const float *gate = both + i * 2 * inner, *up = gate + inner, weight = weights[own[i]];
      for (int64_t j = 0; j < inner; ++j)
        product[i * inner + j] = gate[j] / (1.0f + exponential(-gate[j])) * up[j] * weight;
    }
    multiply(product, count, down + expert * inner * width, inner, width, result);
    for (int64_t i = 0; i < count; ++i)
      for (int64_t j = 0; j < width; ++j) out[own[i] / each * width + j] += result[i * width + j];
  }
  return 0;
}

}  // extern "C"
