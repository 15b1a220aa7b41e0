// In float32 on one thread, called by `library.py` only: products of matrices, and what OlmoeDecoder does to one new token
// of each row (root-mean-square norm, attention with rotary positions over a cache of keys and values, experts).
//
// torch takes several calls for each of the latter, and its products leave most of a core idle: of few tokens anywhere,
// and all of them where MKL holds back AVX-512. Sums may be taken in any order here, but a NaN stays one.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__)
#define FOR_EVERY_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EVERY_CPU
#endif
#define INLINE inline __attribute__((always_inline))  // into the function that is compiled for every CPU

namespace {

constexpr int64_t LANES = 16, TILE_COLUMNS = 2 * LANES;
constexpr int64_t PART_ROWS = 480, PART_DEPTH = 256;  // of a large product at a time, in the core's cache
constexpr int TILE_ROWS = 12;

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

// Elements of a matrix are `row` apart from those of the next row, and `column` from those of the next column.
struct Strides {
  int64_t row, column;
};

// ROWS rows and TILE_COLUMNS columns of out = a b, or out += a b; a (…, k), b (k, …) and out (…, …), the rows of b and of
// out contiguous and `…_row` apart. The sums stay in registers.
template <int ROWS>
INLINE void multiply_tile(const float* a, Strides of_a, const float* b, int64_t b_row, int64_t k, bool adds,
                          float* out, int64_t out_row) {
  Lanes sums[ROWS][2] = {};
  for (int64_t i = 0; i < k; ++i) {
    const Lanes left = *reinterpret_cast<const Lanes*>(b + i * b_row);
    const Lanes right = *reinterpret_cast<const Lanes*>(b + i * b_row + LANES);
    for (int row = 0; row < ROWS; ++row) {
      sums[row][0] += a[row * of_a.row + i * of_a.column] * left;
      sums[row][1] += a[row * of_a.row + i * of_a.column] * right;
    }
  }
  for (int row = 0; row < ROWS; ++row) {
    Lanes* place = reinterpret_cast<Lanes*>(out + row * out_row);
    place[0] = adds ? place[0] + sums[row][0] : sums[row][0];
    place[1] = adds ? place[1] + sums[row][1] : sums[row][1];
  }
}

// The same for any number of rows.
template <int ROWS = TILE_ROWS>
INLINE void multiply_tiles(const float* a, Strides of_a, int64_t rows, const float* b, int64_t b_row, int64_t k,
                           bool adds, float* out, int64_t out_row) {
  for (; rows >= ROWS; rows -= ROWS, a += ROWS * of_a.row, out += ROWS * out_row)
    multiply_tile<ROWS>(a, of_a, b, b_row, k, adds, out, out_row);
  if constexpr (ROWS > 1) multiply_tiles<(ROWS + 1) / 3>(a, of_a, rows, b, b_row, k, adds, out, out_row);
}

// out (rows, n) = a (rows, k) b (k, n).
INLINE void multiply(const float* a, int64_t rows, const float* b, int64_t k, int64_t n, float* out) {
  int64_t column = 0;
  for (; column + TILE_COLUMNS <= n; column += TILE_COLUMNS)
    multiply_tiles(a, {k, 1}, rows, b + column, n, k, false, out + column, n);
  if (column == n) return;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t j = column; j < n; ++j) out[row * n + j] = 0;
    for (int64_t i = 0; i < k; ++i)
      for (int64_t j = column; j < n; ++j) out[row * n + j] += a[row * k + i] * b[i * n + j];
  }
}

// out (k, TILE_COLUMNS) = b (k, width), then zeros.
INLINE void pack(const float* b, Strides of_b, int64_t width, int64_t k, float* out) {
  if (width < TILE_COLUMNS) std::memset(out, 0, size_t(k * TILE_COLUMNS) * sizeof(float));
  if (of_b.column == 1 && width == TILE_COLUMNS)
    for (int64_t i = 0; i < k; ++i) std::memcpy(out + i * width, b + i * of_b.row, TILE_COLUMNS * sizeof(float));
  else
    for (int64_t j = 0; j < width; ++j)
      for (int64_t i = 0; i < k; ++i) out[i * TILE_COLUMNS + j] = b[i * of_b.row + j * of_b.column];
}

}  // namespace

extern "C" {

int32_t bai_native_version() { return 2; }

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

// out (rows, columns), contiguous, = a (rows, depth) b (depth, columns), with the elements of a and b `…_row` and `…_column`
// apart (see Strides). An element of `out` depends on its row of a and its column of b alone, to the bit.
FOR_EVERY_CPU void bai_product(const float* a, int64_t a_row, int64_t a_column, const float* b, int64_t b_row,
                               int64_t b_column, int64_t rows, int64_t depth, int64_t columns, float* out) {
  const Strides of_a{a_row, a_column}, of_b{b_row, b_column};
  const std::unique_ptr<float[]> scratch(new float[(PART_DEPTH + PART_ROWS) * TILE_COLUMNS]);  // not set to 0
  float *panel = scratch.get(), *edge = panel + PART_DEPTH * TILE_COLUMNS;
  if (depth == 0) std::memset(out, 0, size_t(rows * columns) * sizeof(float));
  for (int64_t i = 0; i < depth; i += PART_DEPTH) {
    const int64_t k = std::min(PART_DEPTH, depth - i);
    for (int64_t row = 0; row < rows; row += PART_ROWS) {
      const int64_t count = std::min(PART_ROWS, rows - row);
      const float* left = a + row * a_row + i * a_column;
      for (int64_t j = 0; j < columns; j += TILE_COLUMNS) {
        const int64_t width = std::min(TILE_COLUMNS, columns - j);
        pack(b + i * b_row + j * b_column, of_b, width, k, panel);
        float* place = out + row * columns + j;
        const bool whole = width == TILE_COLUMNS;
        multiply_tiles(left, of_a, count, panel, TILE_COLUMNS, k, whole && i > 0, whole ? place : edge,
                       whole ? columns : TILE_COLUMNS);
        for (int64_t r = 0; r < (whole ? 0 : count); ++r)
          for (int64_t c = 0; c < width; ++c)
            place[r * columns + c] = (i > 0 ? place[r * columns + c] : 0.0f) + edge[r * TILE_COLUMNS + c];
      }
    }
  }
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
