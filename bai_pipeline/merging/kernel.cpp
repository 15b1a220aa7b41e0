// The arithmetic of a linear merge: float32 products and sums in a fixed order, rounded once, to nearest, ties to even.
//
// Built with -ffp-contract=off: a fused multiply-add rounds once where the definition rounds twice. Every operation is
// then correctly rounded by IEEE 754, so the bytes are the same with any instruction set. `kernel.py` is the only
// caller and describes the interface.

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <unistd.h>
#include <vector>

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__)
#define FOR_EVERY_CPU __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define FOR_EVERY_CPU
#endif

namespace {

constexpr int64_t BLOCK = 512;         // elements; a dozen registers of 2 KiB stay in the first-level cache
constexpr int64_t PIECE = 128 * 1024;  // elements; with a quarter a merge takes a tenth longer, with more no less
constexpr int32_t UNREADABLE = 1 << 16, UNWRITABLE = 1 << 17;

enum Dtype : int32_t { F32 = 0, BF16 = 1, F16 = 2 };

// What an instruction does with registers (r), inputs (x) and outputs (y). From TAKE on, inputs and outputs are bfloat16;
// these save passes over the first-level cache: the merge of a base with two SFT models is one BLEND.
enum Op : int32_t {
  LOAD = 0,   // r[to] = x[a]
  SCALE = 1,  // r[to] = r[a] * u
  ADD = 2,    // r[to] = r[to] + r[a] * u
  STORE = 3,  // y[to] = r[a]
  TAKE = 4,   // r[to] = x[a] * u
  GIVE = 5,   // r[to] = r[to] + x[a] * u
  PAIR = 6,   // r[to] = x[a] * u + x[b] * v
  MIX = 7,    // y[to] = x[a] * u + r[b] * v
  BLEND = 8,  // y[to] = x[a] * u + (x[b] * v + x[c] * w) * t
};

struct Instruction {
  int32_t op, to, a, b, c;
  float u, v, w, t;
};

// Where bai_stream takes a tensor's elements from and puts them. Files of -1: an input that is not there, an output that
// is memory for all elements. Other buffers hold PIECE elements. Hashes may be null.
struct Stream {
  const Instruction* program;
  int32_t length, registers, input_count, output_count;
  void* const* inputs;
  const int32_t *input_dtypes, *input_files;
  const int64_t* input_positions;
  void* const* input_hashes;
  void* const* outputs;
  const int32_t *output_dtypes, *output_files;
  const int64_t* output_positions;
  void* const* output_hashes;
  int32_t (*update)(void* state, const void* data, size_t length);
};

inline int64_t size_of(int32_t dtype) { return dtype == F32 ? 4 : 2; }

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// float16 has 5 bits of exponent, biased by 15, and 10 of mantissa: shifted into float32's place the value is too small
// by 2^(127-15), subnormals included. The multiplication is exact.
inline float from_half(uint16_t half) {
  const float magnitude = float_of(uint32_t(half & 0x7fff) << 13) * float_of(uint32_t(254 - 15) << 23);
  return float_of(bits_of(magnitude) | uint32_t(half & 0x8000) << 16);
}

// Both cases are computed, so that the loop has no branch. A normal result drops 13 bits of mantissa after half of the
// last place, less one unless the kept part is odd, was added. A subnormal one is a multiple of 2^-24, which is the last
// place of float32 at 0.5: adding 0.5 rounds it. What is beyond 65519 becomes infinite.
inline uint16_t to_half(float value) {
  const uint32_t bits = bits_of(value), sign = bits & 0x80000000u, magnitude = bits ^ sign;
  const uint32_t normal = (magnitude - (uint32_t(127 - 15) << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  const uint32_t finite = magnitude < (uint32_t(127 - 14) << 23) ? subnormal : normal;
  return uint16_t((magnitude >= 0x47800000u ? 0x7c00u : finite) | sign >> 16);
}

// float32 bits whose upper half is the nearest bfloat16.
inline uint32_t rounded(float value) {
  const uint32_t bits = bits_of(value);
  return bits + 0x7fff + ((bits >> 16) & 1);
}

// An exponent of ones means infinity or NaN. A sum of such comparisons, each 0 or 1, stays in 32-bit lanes.
inline uint32_t is_bad(uint32_t bits) { return (bits & 0x7f800000u) == 0x7f800000u; }

inline uint32_t bits_of_bfloat(uint16_t bfloat) { return uint32_t(bfloat) << 16; }

// The functions below return whether all elements are finite.

FOR_EVERY_CPU bool load_f32(float* to, const float* from, int64_t n) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; i++) {
    to[i] = from[i];
    bad |= is_bad(bits_of(from[i]));
  }
  return !bad;
}

FOR_EVERY_CPU bool load_bf16(float* to, const uint16_t* from, int64_t n) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; i++) {
    const uint32_t bits = bits_of_bfloat(from[i]);
    to[i] = float_of(bits);
    bad |= is_bad(bits);
  }
  return !bad;
}

FOR_EVERY_CPU bool load_f16(float* to, const uint16_t* from, int64_t n) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; i++) {
    to[i] = from_half(from[i]);
    bad |= (from[i] & 0x7c00u) == 0x7c00u;
  }
  return !bad;
}

FOR_EVERY_CPU void scale(float* to, const float* from, float weight, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = from[i] * weight;
}

FOR_EVERY_CPU void add(float* to, const float* from, float weight, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = to[i] + from[i] * weight;
}

FOR_EVERY_CPU bool store_f32(float* to, const float* from, int64_t n) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; i++) {
    to[i] = from[i];
    bad |= is_bad(bits_of(from[i]));
  }
  return !bad;
}

FOR_EVERY_CPU bool store_bf16(uint16_t* to, const float* from, int64_t n) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; i++) {
    const uint32_t bits = rounded(from[i]);
    to[i] = uint16_t(bits >> 16);
    bad |= is_bad(bits);
  }
  return !bad;
}

FOR_EVERY_CPU bool store_f16(uint16_t* to, const float* from, int64_t n) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; i++) {
    const uint16_t value = to_half(from[i]);
    to[i] = value;
    bad |= (value & 0x7c00u) == 0x7c00u;
  }
  return !bad;
}

FOR_EVERY_CPU bool take(float* to, const uint16_t* a, float u, int64_t n) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; i++) {
    const uint32_t one = bits_of_bfloat(a[i]);
    to[i] = float_of(one) * u;
    bad |= is_bad(one);
  }
  return !bad;
}

FOR_EVERY_CPU bool give(float* to, const uint16_t* a, float u, int64_t n) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; i++) {
    const uint32_t one = bits_of_bfloat(a[i]);
    to[i] = to[i] + float_of(one) * u;
    bad |= is_bad(one);
  }
  return !bad;
}

FOR_EVERY_CPU bool pair(float* to, const uint16_t* a, const uint16_t* b, float u, float v, int64_t n) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; i++) {
    const uint32_t one = bits_of_bfloat(a[i]), other = bits_of_bfloat(b[i]);
    to[i] = float_of(one) * u + float_of(other) * v;
    bad |= is_bad(one) | is_bad(other);
  }
  return !bad;
}

// A result that is not finite tells of an input that is not, or of one that is out of range.
FOR_EVERY_CPU bool mix(uint16_t* to, const uint16_t* a, const float* b, float u, float v, int64_t n) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; i++) {
    const uint32_t bits = rounded(float_of(bits_of_bfloat(a[i])) * u + b[i] * v);
    to[i] = uint16_t(bits >> 16);
    bad |= is_bad(bits);
  }
  return !bad;
}

FOR_EVERY_CPU bool blend(uint16_t* to, const uint16_t* a, const uint16_t* b, const uint16_t* c, float u, float v,
                         float w, float t, int64_t n) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; i++) {
    const float inner = float_of(bits_of_bfloat(b[i])) * v + float_of(bits_of_bfloat(c[i])) * w;
    const uint32_t bits = rounded(float_of(bits_of_bfloat(a[i])) * u + inner * t);
    to[i] = uint16_t(bits >> 16);
    bad |= is_bad(bits);
  }
  return !bad;
}

bool load(float* to, const void* from, int32_t dtype, int64_t start, int64_t n) {
  if (dtype == F32) return load_f32(to, static_cast<const float*>(from) + start, n);
  const uint16_t* halves = static_cast<const uint16_t*>(from) + start;
  return dtype == BF16 ? load_bf16(to, halves, n) : load_f16(to, halves, n);
}

bool store(void* to, const float* from, int32_t dtype, int64_t start, int64_t n) {
  if (dtype == F32) return store_f32(static_cast<float*>(to) + start, from, n);
  uint16_t* halves = static_cast<uint16_t*>(to) + start;
  return dtype == BF16 ? store_bf16(halves, from, n) : store_f16(halves, from, n);
}

int64_t first_infinite(const void* data, int32_t dtype, int64_t start, int64_t n) {
  for (int64_t i = start; i < start + n; i++) {
    float one;
    if (!load(&one, data, dtype, i, 1)) return i;
  }
  return -1;
}

}  // namespace

extern "C" {

int32_t bai_kernel_version() { return 6; }

int64_t bai_piece() { return PIECE; }

// Runs a program over `count` elements. Returns 0, or k when input k-1 is not finite, or -k when output k-1 is not;
// `*where` is then the first such position.
int32_t bai_merge(const Instruction* program, int32_t length, int32_t registers, void* const* inputs,
                  const int32_t* input_dtypes, void* const* outputs, const int32_t* output_dtypes, int64_t count,
                  int64_t* where) {
  std::vector<float> file(size_t(registers) * BLOCK);
  const auto at = [&](int32_t input, int64_t start) { return static_cast<const uint16_t*>(inputs[input]) + start; };
  const auto bad_input = [&](int32_t input, int64_t start, int64_t n) {
    const int64_t first = first_infinite(inputs[input], input_dtypes[input], start, n);
    if (first < 0) return false;
    *where = first;
    return true;
  };
  for (int64_t start = 0; start < count; start += BLOCK) {
    const int64_t n = count - start < BLOCK ? count - start : BLOCK;
    for (int32_t k = 0; k < length; k++) {
      const Instruction& now = program[k];
      const auto at_register = [&](int32_t number) { return file.data() + size_t(number) * BLOCK; };
      bool fine = true;
      switch (now.op) {
        case LOAD:
          fine = load(at_register(now.to), inputs[now.a], input_dtypes[now.a], start, n);
          break;
        case SCALE:
          scale(at_register(now.to), at_register(now.a), now.u, n);
          break;
        case ADD:
          add(at_register(now.to), at_register(now.a), now.u, n);
          break;
        case STORE:
          fine = store(outputs[now.to], at_register(now.a), output_dtypes[now.to], start, n);
          break;
        case TAKE:
          fine = take(at_register(now.to), at(now.a, start), now.u, n);
          break;
        case GIVE:
          fine = give(at_register(now.to), at(now.a, start), now.u, n);
          break;
        case PAIR:
          fine = pair(at_register(now.to), at(now.a, start), at(now.b, start), now.u, now.v, n);
          break;
        case MIX:
          fine = mix(static_cast<uint16_t*>(outputs[now.to]) + start, at(now.a, start), at_register(now.b), now.u,
                     now.v, n);
          break;
        default:
          fine = blend(static_cast<uint16_t*>(outputs[now.to]) + start, at(now.a, start), at(now.b, start),
                       at(now.c, start), now.u, now.v, now.w, now.t, n);
      }
      if (fine) continue;
      if (now.op != STORE && bad_input(now.a, start, n)) return now.a + 1;
      if ((now.op == PAIR || now.op == BLEND) && bad_input(now.b, start, n)) return now.b + 1;
      if (now.op == BLEND && bad_input(now.c, start, n)) return now.c + 1;
      *where = first_infinite(outputs[now.to], output_dtypes[now.to], start, n);
      return -(now.to + 1);
    }
  }
  return 0;
}

// As bai_merge, from files and to files, a piece at a time: read, hashed, computed, hashed and written. Returns also UNREADABLE + k when input k cannot be read and UNWRITABLE + k when output
// k cannot be written: `*where` is errno then, or 0 where the file ends.
int32_t bai_stream(const Stream* s, int64_t count, int64_t* where) {
  std::vector<void*> places(s->outputs, s->outputs + s->output_count);
  for (int64_t start = 0; start < count; start += PIECE) {
    const int64_t n = count - start < PIECE ? count - start : PIECE;
    for (int32_t k = 0; k < s->input_count; k++) {
      if (s->input_files[k] < 0) continue;
      const int64_t item = size_of(s->input_dtypes[k]), wanted = n * item;
      for (int64_t done = 0; done < wanted;) {
        char* to = static_cast<char*>(s->inputs[k]) + done;
        const ssize_t got =
            pread(s->input_files[k], to, size_t(wanted - done), s->input_positions[k] + start * item + done);
        if (got < 0 && errno == EINTR) continue;
        *where = got < 0 ? errno : 0;
        if (got <= 0) return UNREADABLE + k;
        done += got;
      }
      if (s->input_hashes[k]) s->update(s->input_hashes[k], s->inputs[k], size_t(wanted));
    }
    for (int32_t k = 0; k < s->output_count; k++)
      if (s->output_files[k] < 0)
        places[size_t(k)] = static_cast<char*>(s->outputs[k]) + start * size_of(s->output_dtypes[k]);
    const int32_t code = bai_merge(s->program, s->length, s->registers, s->inputs, s->input_dtypes, places.data(),
                                   s->output_dtypes, n, where);
    if (code) {
      *where += start;
      return code;
    }
    for (int32_t k = 0; k < s->output_count; k++) {
      const int64_t item = size_of(s->output_dtypes[k]), wanted = n * item;
      if (s->output_hashes[k]) s->update(s->output_hashes[k], places[size_t(k)], size_t(wanted));
      if (s->output_files[k] < 0) continue;
      for (int64_t done = 0; done < wanted;) {
        const char* from = static_cast<char*>(places[size_t(k)]) + done;
        const ssize_t put =
            pwrite(s->output_files[k], from, size_t(wanted - done), s->output_positions[k] + start * item + done);
        if (put < 0 && errno == EINTR) continue;
        *where = errno;
        if (put < 0) return UNWRITABLE + k;
        done += put;
      }
    }
  }
  return 0;
}

}  // extern "C"
