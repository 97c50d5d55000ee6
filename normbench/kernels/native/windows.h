// Local response norm: y = x / (k + alpha / size * sum of x^2 over a window of channels)^beta, and its gradient.
#pragma once

#include "arrays.h"

namespace normbench {

struct Windows {
  int64_t images, channels, positions, size;  // positions 1: the channels are the last axis
  double alpha, beta, k;
  Array x, y, dy, dx;

  int64_t before() const { return size / 2; }
  int64_t after() const { return (size - 1) / 2; }
};

template <class C>
inline void powers(C* __restrict to, const C* __restrict base, int64_t n, C beta) {  // base^-beta
  if (beta == C(0.75)) {
    for (int64_t i = 0; i < n; ++i) {
      const C root = std::sqrt(base[i]);
      to[i] = C(1) / (root * std::sqrt(root));
    }
  } else if (beta == C(0.5)) {
    for (int64_t i = 0; i < n; ++i) to[i] = C(1) / std::sqrt(base[i]);
  } else if (beta == C(1)) {
    for (int64_t i = 0; i < n; ++i) to[i] = C(1) / base[i];
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = std::pow(base[i], -beta);
  }
}

inline constexpr int64_t kPositions = 128;

// One tile: `width` positions of all channels, channel after channel, or one row of channels.
template <class C>
class WindowTile {
 public:
  explicit WindowTile(const Windows& a)
      : a_(a), x_(room()), dy_(a.dy.data ? room() : 0), terms_(a.dy.data ? room() : 0), base_(row()), power_(row()),
        made_(row()), last_(a.positions == 1) {}

  void run(int64_t from, int64_t width) {
    width_ = width;
    bring(a_.x, x_, from);
    if (a_.dy.data) {
      bring(a_.dy, dy_, from);
      prepare();
    }
    const int64_t rows = last_ ? 1 : a_.channels, length = last_ ? a_.channels : width_;
    for (int64_t c = 0; c < rows; ++c) {
      const int64_t at = from + (last_ ? 0 : c * a_.positions);
      const Array& out = a_.dy.data ? a_.dx : a_.y;
      C* made = place(out, at, made_.data());
      base_of(c, length);
      powers(power_.data(), base_.data(), length, static_cast<C>(a_.beta));
      const C* x = line(x_, c);
      if (!a_.dy.data) {
        for (int64_t i = 0; i < length; ++i) made[i] = x[i] * power_[i];
      } else {
        gradient(made, c, length);
      }
      keep(out, at, length, made);
    }
  }

 private:
  int64_t edge() const { return std::max<int64_t>(a_.size, 1); }
  size_t room() const { return (a_.positions == 1 ? 1 : kPositions) * (a_.channels + 2 * edge()); }
  size_t row() const { return a_.positions == 1 ? a_.channels : kPositions; }
  int64_t step() const { return last_ ? 1 : width_; }

  // The line of channel c; of channels last, that of all channels.
  template <class Held>
  auto line(Held& held, int64_t c) {
    return held.data() + (edge() + c) * step();
  }

  void bring(const Array& array, std::vector<C>& to, int64_t from) {
    const int64_t border = edge() * step();
    std::fill(to.begin(), to.begin() + border, C(0));
    std::fill(to.begin() + border + a_.channels * step(),
              to.begin() + 2 * border + a_.channels * step(), C(0));
    const int64_t rows = last_ ? 1 : a_.channels, length = last_ ? a_.channels : width_;
    for (int64_t c = 0; c < rows; ++c) {
      C* into = to.data() + border + c * width_;
      const C* found = read(array, from + (last_ ? 0 : c * a_.positions), length, into);
      if (found != into) std::memcpy(into, found, length * sizeof(C));
    }
  }

  void base_of(int64_t c, int64_t length) {
    const C share = static_cast<C>(a_.alpha / a_.size), k = static_cast<C>(a_.k);
    C* __restrict base = base_.data();
    std::fill(base, base + length, C(0));
    for (int64_t shift = -a_.before(); shift <= a_.after(); ++shift) {
      const int64_t other = c + shift;
      if (!last_ && (other < 0 || other >= a_.channels)) continue;
      if (last_ && (shift <= -a_.channels || shift >= a_.channels)) continue;
      const C* __restrict x = last_ ? x_.data() + edge() + shift : x_.data() + (edge() + other) * width_;
      for (int64_t i = 0; i < length; ++i) base[i] += x[i] * x[i];
    }
    for (int64_t i = 0; i < length; ++i) base[i] = k + share * base[i];
  }

  // terms = dy y / s of every channel of the tile.
  void prepare() {
    const int64_t border = edge() * step();
    std::fill(terms_.begin(), terms_.begin() + border, C(0));
    std::fill(terms_.begin() + border + a_.channels * step(), terms_.end(), C(0));
    const int64_t rows = last_ ? 1 : a_.channels, length = last_ ? a_.channels : width_;
    for (int64_t c = 0; c < rows; ++c) {
      base_of(c, length);
      powers(power_.data(), base_.data(), length, static_cast<C>(a_.beta));
      const C *x = line(x_, c), *dy = line(dy_, c);
      C* terms = line(terms_, c);
      for (int64_t i = 0; i < length; ++i) terms[i] = dy[i] * (x[i] * power_[i] / base_[i]);
    }
  }

  void gradient(C* __restrict dx, int64_t c, int64_t length) {
    const C factor = static_cast<C>(2 * a_.alpha * a_.beta / a_.size);
    C* __restrict sums = base_.data();
    std::fill(sums, sums + length, C(0));
    for (int64_t shift = -a_.after(); shift <= a_.before(); ++shift) {
      const int64_t other = c + shift;
      if (!last_ && (other < 0 || other >= a_.channels)) continue;
      if (last_ && (shift <= -a_.channels || shift >= a_.channels)) continue;
      const C* __restrict terms = last_ ? terms_.data() + edge() + shift : terms_.data() + (edge() + other) * width_;
      for (int64_t i = 0; i < length; ++i) sums[i] += terms[i];
    }
    const C *x = line(x_, c), *dy = line(dy_, c);
    for (int64_t i = 0; i < length; ++i) dx[i] = dy[i] * power_[i] - factor * x[i] * sums[i];
  }

  const Windows& a_;
  std::vector<C> x_, dy_, terms_, base_, power_, made_;
  bool last_;
  int64_t width_ = 1;
};

template <class C>
void windows(ffi::ThreadPool& pool, const Windows& a) {
  const bool last = a.positions == 1;
  const int64_t tiles = last ? 1 : ceil_of(a.positions, kPositions), total = a.images * tiles;
  const int64_t elements = a.images * a.channels * a.positions;
  const int64_t each = ceil_of(total, std::min(total, std::min<int64_t>(64, ceil_of(elements, 8192))));
  shared(pool, ceil_of(total, each), elements < kSmall / 4, [&](int64_t task) {
    WindowTile<C> tile(a);
    for (int64_t i = task * each; i < std::min(total, (task + 1) * each); ++i) {
      const int64_t image = i / tiles, position = i % tiles * kPositions;
      tile.run(image * a.channels * a.positions + position,
               last ? 1 : std::min(kPositions, a.positions - position));
    }
  });
}

}  // namespace normbench
