// Arrays of the four dtypes, read and written in blocks of the type that is computed in.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "threads.h"

namespace normbench {

struct Array {
  void* data = nullptr;
  ffi::DataType type = ffi::F32;
};

// Elements of one block: what is computed on at once lies in the first cache, widened.
template <class C>
inline constexpr int64_t kBlock = 16384 / sizeof(C);

// Elements that are made at once before they are narrowed.
inline constexpr int64_t kMade = 1024;

template <class C>
inline constexpr ffi::DataType kType = sizeof(C) == 4 ? ffi::F32 : ffi::F64;

template <class C>
inline void widen_bfloat16(C* to, const uint16_t* from, int64_t n) {
  if constexpr (sizeof(C) == 4) {
    uint32_t* bits = reinterpret_cast<uint32_t*>(to);
    for (int64_t i = 0; i < n; ++i) bits[i] = static_cast<uint32_t>(from[i]) << 16;
  } else {
    for (int64_t i = 0; i < n; ++i) {
      uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
      float value;
      std::memcpy(&value, &bits, 4);
      to[i] = value;
    }
  }
}

// To the nearest, halves to even; what is no number stays none.
inline uint16_t narrowed_bfloat16(uint32_t bits) {
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t none = (bits >> 16) | 0x40u;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? none : rounded);
}

__attribute__((noinline)) inline void narrow_one_by_one(uint16_t* to, const float* from, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, from + i, 4);
    to[i] = narrowed_bfloat16(bits);
  }
}

#if defined(__AVX512BF16__) && defined(__AVX512DQ__)
inline void narrow_vector(uint16_t* to, __m512 value) {
  constexpr int subnormal = 0x20;  // which the instruction takes for 0
  if (__builtin_expect(_mm512_fpclass_ps_mask(value, subnormal) == 0, 1)) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(value));
  } else {
    alignas(64) float each[16];
    _mm512_store_ps(each, value);
    narrow_one_by_one(to, each, 16);
  }
}
#endif

inline void narrow_bfloat16(uint16_t* to, const float* from, int64_t n) {
  const uint32_t* all = reinterpret_cast<const uint32_t*>(from);
  int64_t i = 0;
#if defined(__AVX512BF16__) && defined(__AVX512DQ__)
  for (; i + 16 <= n; i += 16) narrow_vector(to + i, _mm512_loadu_ps(from + i));
#endif
  for (; i < n; ++i) to[i] = narrowed_bfloat16(all[i]);
}

inline void widen_float16(float* to, const _Float16* from, int64_t n) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= n; i += 16) {
    _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i))));
  }
#elif defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
  }
#endif
  for (; i < n; ++i) to[i] = static_cast<float>(from[i]);
}

inline void narrow_float16(_Float16* to, const float* from, int64_t n) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= n; i += 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i),
                        _mm512_cvtps_ph(_mm512_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
  }
#elif defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
  }
#endif
  for (; i < n; ++i) to[i] = static_cast<_Float16>(from[i]);
}

// Elements [at, at + n) in the type that is computed in: where they lie, or widened into `scratch`.
template <class C>
inline const C* read(const Array& array, int64_t at, int64_t n, C* scratch) {
  if (array.type == kType<C>) return static_cast<const C*>(array.data) + at;
  switch (array.type) {
    case ffi::BF16:
      widen_bfloat16(scratch, static_cast<const uint16_t*>(array.data) + at, n);
      break;
    case ffi::F16: {
      const _Float16* from = static_cast<const _Float16*>(array.data) + at;
      if constexpr (sizeof(C) == 4) {
        widen_float16(scratch, from, n);
      } else {
        for (int64_t i = 0; i < n; ++i) scratch[i] = static_cast<C>(from[i]);
      }
      break;
    }
    case ffi::F32: {
      const float* from = static_cast<const float*>(array.data) + at;
      for (int64_t i = 0; i < n; ++i) scratch[i] = static_cast<C>(from[i]);
      break;
    }
    default: {
      const double* from = static_cast<const double*>(array.data) + at;
      for (int64_t i = 0; i < n; ++i) scratch[i] = static_cast<C>(from[i]);
    }
  }
  return scratch;
}

inline int64_t bytes_of(ffi::DataType type) {
  return type == ffi::F64 ? 8 : type == ffi::F32 ? 4 : 2;
}

// Brings elements [at, at + n) into the second cache while something else is computed on: what starts anew after every
// few lines is not foreseen by the processor.
inline void ask_for(const Array& array, int64_t at, int64_t n) {
  const int64_t each = bytes_of(array.type);
  const char* from = static_cast<const char*>(array.data) + at * each;
  for (int64_t byte = 0; byte < n * each; byte += 64) __builtin_prefetch(from + byte, 0, 2);
}

// Where to make elements [at, ...): in their place, or in `scratch`, from where `keep` rounds them.
template <class C>
inline C* place(const Array& array, int64_t at, C* scratch) {
  return array.type == kType<C> ? static_cast<C*>(array.data) + at : scratch;
}

template <class C>
inline void keep(const Array& array, int64_t at, int64_t n, const C* made) {
  if (array.type == kType<C>) {
    C* to = static_cast<C*>(array.data) + at;
    if (to != made) std::memcpy(to, made, n * sizeof(C));
    return;
  }
  if constexpr (sizeof(C) == 4) {
    if (array.type == ffi::BF16) return narrow_bfloat16(static_cast<uint16_t*>(array.data) + at, made, n);
    if (array.type == ffi::F16) return narrow_float16(static_cast<_Float16*>(array.data) + at, made, n);
  }
  if (array.type == ffi::F64) {
    double* to = static_cast<double*>(array.data) + at;
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<double>(made[i]);
  } else if (array.type == ffi::F32) {
    float* to = static_cast<float*>(array.data) + at;
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(made[i]);
  } else {
    float narrowed[256];
    for (int64_t start = 0; start < n; start += 256) {
      const int64_t count = std::min<int64_t>(256, n - start);
      for (int64_t i = 0; i < count; ++i) narrowed[i] = static_cast<float>(made[start + i]);
      keep<float>(array, at + start, count, narrowed);
    }
  }
}

// A whole parameter, widened once.
template <class C>
class Parameter {
 public:
  Parameter(const Array& array, int64_t n) {
    if (array.type != kType<C>) held_.resize(n);
    data_ = read<C>(array, 0, n, held_.data());
  }
  const C* data() const { return data_; }
  C operator[](int64_t i) const { return data_[i]; }

 private:
  std::vector<C> held_;
  const C* data_;
};

// Of a call of fewer elements the other threads would come too late.
inline constexpr int64_t kSmall = 32768;

inline int64_t ceil_of(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace normbench
