// The activations and their slopes, in forms that a compiler makes vectors of.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace normbench {

enum Activation : int64_t { kNone = 0, kRelu = 1, kSilu = 2, kGelu = 3 };

inline double exponential(double t) { return std::exp(t); }

// exp(t) = 2^k exp(t - k log 2), the latter by a polynomial of degree 6 on half of log 2; infinite
// beyond float32, and 1e-38 below.
inline float exponential(float t) {
  float bounded = t > 88.0f ? 88.0f : t;
  bounded = bounded < -87.0f ? -87.0f : bounded;
  const float shift = 12582912.0f;  // 1.5 * 2^23: adding it leaves a whole number in the lowest bits
  const float moved = bounded * 1.44269504088896341f + shift;
  const float k = moved - shift;
  const float rest = (bounded - k * 0.693359375f) + k * 2.12194440054690583e-4f;
  float p = 1.0f / 720.0f;
  p = p * rest + 1.0f / 120.0f;
  p = p * rest + 1.0f / 24.0f;
  p = p * rest + 1.0f / 6.0f;
  p = p * rest + 0.5f;
  p = p * rest + 1.0f;
  p = p * rest + 1.0f;
  int32_t bits;
  std::memcpy(&bits, &moved, 4);
  bits = (bits - 0x4b400000 + 127) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  const float value = p * power;
  return t > 88.7f ? INFINITY : value;
}

template <class C>
inline constexpr C kRoot = static_cast<C>(0.79788456080286535588);  // sqrt(2 / pi)
template <class C>
inline constexpr C kCubic = static_cast<C>(0.044715);

// Those that are made of vectors as they are of numbers.
template <int A>
inline constexpr bool kOfVectors = A == kNone || A == kRelu;

template <int A, class C>
inline C activated(C z) {
  if constexpr (A == kRelu) return z < C{} ? C{} : z;
  if constexpr (A == kSilu) return z / (C(1) + exponential(-z));
  if constexpr (A == kGelu) {
    const C inner = C(2) * kRoot<C> * z * (C(1) + kCubic<C> * z * z);
    return z / (C(1) + exponential(-inner));
  }
  return z;
}

template <int A, class C>
inline C slope(C z) {
  if constexpr (A == kRelu) return z > 0 ? C(1) : C(0);
  if constexpr (A == kSilu) {
    const C s = C(1) / (C(1) + exponential(-z));
    return s * (C(1) + z * (C(1) - s));
  }
  if constexpr (A == kGelu) {
    // Beyond 20 the slope is 0 or 1 in every type, and squares stay finite.
    const C w = z > C(20) ? C(20) : (z < C(-20) ? C(-20) : z);
    const C s = C(1) / (C(1) + exponential(C(-2) * kRoot<C> * w * (C(1) + kCubic<C> * w * w)));
    return s + w * s * (C(1) - s) * (C(2) * kRoot<C> * (C(1) + C(3) * kCubic<C> * w * w));
  }
  return C(1);
}

// Calls call(std::integral_constant) with the activation as a constant.
template <class Call>
inline void with_activation(int64_t activation, const Call& call) {
  switch (activation) {
    case kRelu:
      return call(std::integral_constant<int, kRelu>{});
    case kSilu:
      return call(std::integral_constant<int, kSilu>{});
    case kGelu:
      return call(std::integral_constant<int, kGelu>{});
    default:
      return call(std::integral_constant<int, kNone>{});
  }
}

}  // namespace normbench
