// Sums in lanes: the moments of a block around its own mean, and of blocks put together by Chan's rule in float64.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "activations.h"
#include "arrays.h"

namespace normbench {

template <class C>
struct Lanes {
  typedef C V __attribute__((vector_size(64)));
  static constexpr int64_t kWidth = 64 / sizeof(C);
};

template <class V, class C>
inline V load(const C* from) {
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}

// The same of bfloat16, widened in registers.
template <class K>
inline K load(const uint16_t* from) {
  if constexpr (sizeof(K) == 4) {
    float value;
    widen_bfloat16(&value, from, 1);
    return value;
  } else {
    static_assert(sizeof(K) == 64);
    typedef uint16_t Narrow __attribute__((vector_size(32)));
    typedef uint32_t Bits __attribute__((vector_size(64)));
    Narrow narrow;
    std::memcpy(&narrow, from, sizeof(narrow));
    const Bits bits = __builtin_convertvector(narrow, Bits) << 16;
    K value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }
}

template <class K>
inline void round_into(uint16_t* to, K value) {
#if defined(__AVX512BF16__) && defined(__AVX512DQ__)
  if constexpr (sizeof(K) == 64) return narrow_vector(to, (__m512)value);
#endif
  narrow_bfloat16(to, reinterpret_cast<const float*>(&value), sizeof(K) / 4);
}

template <class C, class K>
inline void store(C* to, K value) {
  std::memcpy(to, &value, sizeof(K));
}
template <class K>
inline void store(uint16_t* to, K value) {
  round_into<K>(to, value);
}

template <class C, int Bytes>
inline C sum_of_bytes(const void* lanes) {
  if constexpr (Bytes == sizeof(C)) {
    return *static_cast<const C*>(lanes);
  } else {
    typedef C Half __attribute__((vector_size(Bytes / 2)));
    Half low, high;
    std::memcpy(&low, lanes, Bytes / 2);
    std::memcpy(&high, static_cast<const char*>(lanes) + Bytes / 2, Bytes / 2);
    low += high;
    return sum_of_bytes<C, Bytes / 2>(&low);
  }
}

template <class C>
inline C sum_of(typename Lanes<C>::V v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(C) == 4) return _mm512_reduce_add_ps((__m512)v);
#endif
  return sum_of_bytes<C, 64>(&v);
}

// Calls step(position, lane) with the type of a vector or of one element, four vectors at a time.
template <class C, class Step>
inline void in_lanes(int64_t n, const Step& step) {
  using V = typename Lanes<C>::V;
  constexpr int64_t width = Lanes<C>::kWidth;
  int64_t i = 0;
  for (; i + 4 * width <= n; i += 4 * width) {
    step(V{}, i, 0);
    step(V{}, i + width, 1);
    step(V{}, i + 2 * width, 2);
    step(V{}, i + 3 * width, 3);
  }
  for (; i + width <= n; i += width) step(V{}, i, 0);
  for (; i < n; ++i) step(C{}, i, 0);
}

// y = act((x - high) * scale + shift), each of whose elements has its own; x and y as they lie there.
template <int A, class C, class Stored>
__attribute__((noinline)) void scale_row(Stored* __restrict y, const Stored* __restrict x, const C* __restrict high,
                                         const C* __restrict scale, const C* __restrict shift, int64_t n) {
  if constexpr (kOfVectors<A>) {
    in_lanes<C>(n, [&](auto kind, int64_t i, int) {
      using K = decltype(kind);
      const K z = (load<K>(x + i) - load<K>(high + i)) * load<K>(scale + i) + load<K>(shift + i);
      store(y + i, activated<A>(z));
    });
  } else {
    for (int64_t i = 0; i < n; ++i) y[i] = activated<A>((x[i] - high[i]) * scale[i] + shift[i]);
  }
}

inline bool in_bfloat16(const Array& array) { return array.type == ffi::BF16; }
inline uint16_t* halves(const Array& array) { return static_cast<uint16_t*>(array.data); }

// The same of elements [at, at + n) of arrays: where they lie, of either type, or widened into `wide`, made in `made`.
template <int A, class C>
inline void scale_run(const Array& y, const Array& x, int64_t at, int64_t n, const C* high, const C* scale,
                      const C* shift, C* wide, C* made) {
  if constexpr (kOfVectors<A> && sizeof(C) == 4) {
    if (in_bfloat16(x) && in_bfloat16(y)) return scale_row<A>(halves(y) + at, halves(x) + at, high, scale, shift, n);
  }
  C* to = place(y, at, made);
  scale_row<A>(to, read(x, at, n, wide), high, scale, shift, n);
  keep(y, at, n, to);
}

// A sum of a few lanes of vectors and of the elements that fill none.
template <class C>
struct Sum {
  using V = typename Lanes<C>::V;
  V lanes[4] = {};
  C rest = 0;
  inline void add(V value, int lane) { lanes[lane] += value; }
  inline void add(C value, int) { rest += value; }
  inline C total() const { return sum_of<C>((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + rest; }
};

struct Moments {
  double count = 0, mean = 0, squares = 0;  // squares of deviations from the mean, added

  void add(const Moments& other) {
    if (count == 0) {
      *this = other;
      return;
    }
    const double all = count + other.count, difference = other.mean - mean, share = other.count / all;
    mean += difference * share;
    squares += other.squares + difference * difference * count * share;
    count = all;
  }
};

// A product that is rounded as it stands, and no part of a sum that is rounded once.
template <class T>
inline T rounded(T product) {
#if defined(__clang__)
  return __arithmetic_fence(product);
#else
  return __builtin_assoc_barrier(product);
#endif
}

// What lies near the mean of most blocks: the mean of a few of its elements, exact where they are equal.
template <class C, class Stored>
inline C near_mean(const Stored* x, int64_t n) {
  using V = typename Lanes<C>::V;
  if (n < 16 * Lanes<C>::kWidth) return load<C>(x);
  return sum_of<C>(load<V>(x) * (C(1) / Lanes<C>::kWidth));
}

// Sums of deviations from a pivot, and of their squares, are moments of the block if the pivot is within so many
// variances of the mean: at most two bits are lost. Else they tell a better pivot.
inline constexpr double kTrusted = 3;

template <class C, class Stored>
inline void add_deviations(const Stored* x, int64_t n, C pivot, Sum<C>& shifted_sum, Sum<C>& squared_sum) {
  Sum<C> shifted = shifted_sum, squared = squared_sum;  // in registers
  in_lanes<C>(n, [&](auto kind, int64_t i, int lane) {
    const auto difference = load<decltype(kind)>(x + i) - pivot;
    shifted.add(difference, lane);
    squared.add(difference * difference, lane);
  });
  shifted_sum = shifted;
  squared_sum = squared;
}

// Of one block that lies in so many runs of n elements, which run(i) returns, any number of times; around its own mean
// where the pivot was far from it.
template <class C, class Run>
inline Moments moments_of_runs(int64_t runs, int64_t n, const Run& run) {
  const double terms = static_cast<double>(runs * n);
  C pivot = near_mean<C>(run(0), n);
  for (bool again = false;; again = true) {
    Sum<C> shifted, squared;
    for (int64_t i = 0; i < runs; ++i) add_deviations(run(i), n, pivot, shifted, squared);
    const double left = static_cast<double>(shifted.total()) / terms;
    const double squares = static_cast<double>(squared.total()) - left * left * terms;
    if (again || left * left * terms <= kTrusted * squares) {
      return {terms, pivot + left, squares < 0 ? 0 : squares};  // what is no number stays none
    }
    pivot += static_cast<C>(left);
  }
}

template <class C, class Stored = C>
inline Moments moments_of_block(const Stored* x, int64_t n) {
  return moments_of_runs<C>(1, n, [x](int64_t) { return x; });
}

template <class C, class Stored = C>
inline double squares_of_block(const Stored* x, int64_t n) {
  Sum<C> squared;
  in_lanes<C>(n, [&](auto kind, int64_t i, int lane) {
    const auto value = load<decltype(kind)>(x + i);
    squared.add(value * value, lane);
  });
  return squared.total();
}

// What normalizes: h = (x - high) * r + left(), the mean in two numbers, r = 1 / sqrt(variance + epsilon).
template <class C>
struct Centre {
  C high = 0, low = 0, r = 1, variance = 0;

  C left() const { return low == 0 ? C(0) : -low * r; }

  static Centre of(double mean, double variance, double epsilon) {
    Centre centre;
    centre.high = static_cast<C>(mean);
    centre.low = static_cast<C>(mean - static_cast<double>(centre.high));
    if (!std::isfinite(mean)) centre.low = 0;
    centre.r = static_cast<C>(1.0 / std::sqrt(variance + epsilon));
    centre.variance = static_cast<C>(variance);
    return centre;
  }
};

}  // namespace normbench
