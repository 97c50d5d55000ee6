// Norms of rows whose scale and shift vary along the row: layer norm, RMS norm, and groups of single positions.
#pragma once

#include "activations.h"
#include "arrays.h"
#include "lanes.h"

namespace normbench {

struct Rows {
  int64_t rows, n, period;  // row i has the scale gamma[i % period * n ...]
  int64_t centred, activation;  // a mean is taken only where centred, which rows with a beta are
  double epsilon;
  Array x, residual, gamma, beta;  // residual and beta without data: none
  Array y, z, statistics;          // high, low and r of each row, for a gradient
  Array dy, dz, dx, dgamma, dbeta;
};

inline constexpr int64_t kPart = 256;

template <class C>
class RowTask {
 public:
  RowTask(const Rows& a, const C* gamma, const C* beta) : a_(a), gamma_(gamma), beta_(beta) {}

  // Some rows together, so that one row's division is not waited for.
  void forward(int64_t begin, int64_t end) {
    const int64_t together = std::clamp<int64_t>(kBlock<C> / a_.n, 1, kTogether);
    for (int64_t row = begin; row < end; row += together) forward_some(row, std::min(together, end - row));
  }

  // Adds dz h and dz of the row to `dgamma` and `dbeta`, of one row's length each.
  void backward(int64_t row, C* dgamma, C* dbeta) {
    const int64_t from = row * a_.n, parameters = row % a_.period * a_.n;
    const C* statistics = static_cast<const C*>(a_.statistics.data);
    Centre<C> centre;
    centre.high = statistics[row];
    centre.low = statistics[a_.rows + row];
    centre.r = statistics[2 * a_.rows + row];
    with_activation(a_.activation, [&](auto act) {
      double plain = 0, weighted = 0;
      const C *x = nullptr, *dy = nullptr;
      for (int64_t at = 0; at < a_.n; at += kBlock<C>) {
        const int64_t count = std::min(kBlock<C>, a_.n - at);
        std::tie(x, dy) = both<act.value>(from + at, parameters + at, count, centre);
        sums(x, dy, parameters + at, count, centre, dgamma + at, dbeta ? dbeta + at : nullptr, plain, weighted);
      }
      const C mean_plain = a_.centred ? static_cast<C>(plain / a_.n) : C(0);
      const C mean_weighted = static_cast<C>(weighted / a_.n);
      for (int64_t at = 0; at < a_.n; at += kBlock<C>) {
        const int64_t count = std::min(kBlock<C>, a_.n - at);
        if (a_.n > kBlock<C>) std::tie(x, dy) = both<act.value>(from + at, parameters + at, count, centre);
        const C* gamma = gamma_ + parameters + at;
        C* dx = place(a_.dx, from + at, made_);
        const C high = centre.high, left = centre.left(), r = centre.r;
        const C plain_r = r * mean_plain, weighted_r = r * mean_weighted;
        for (int64_t i = 0; i < count; ++i) {
          dx[i] = rounded(gamma[i] * (r * dy[i])) - plain_r - ((x[i] - high) * r + left) * weighted_r;
        }
        if (a_.dz.data) {
          const C* direct = read(a_.dz, from + at, count, other_);
          for (int64_t i = 0; i < count; ++i) dx[i] += direct[i];
        }
        keep(a_.dx, from + at, count, dx);
      }
    });
  }

 private:
  static constexpr int64_t kTogether = 16;
  static constexpr bool kHalves = sizeof(C) == 4;

  struct Centres {
    C high[kTogether], left[kTogether], r[kTogether];
  };

  void forward_some(int64_t first, int64_t count) {
    double mean[kTogether] = {}, squares[kTogether] = {};
    for (int64_t i = 0; i < count; ++i) {
      const Moments moments = moments_of(first + i, i);
      mean[i] = moments.mean;
      squares[i] = moments.squares;
    }
    const Centres centres = centres_of(mean, squares, first, count);
    for (int64_t i = 0; i < count; ++i) {
      const C high = centres.high[i], left = centres.left[i], r = centres.r[i];
      ask_for_row(first + i + count);
      if (in_bfloat16()) {
        scale_bfloat16(first + i, high, r);
      } else {
        with_activation(a_.activation, [&](auto act) { scale_row<act.value>(first + i, i, high, left, r); });
      }
    }
  }

  void ask_for_row(int64_t row) const {
    if (row >= a_.rows) return;
    ask_for(a_.x, row * a_.n, a_.n);
    if (a_.residual.data) ask_for(a_.residual, row * a_.n, a_.n);
  }

  // Whether bfloat16 is read and written as it lies there, with nothing wide between.
  bool in_bfloat16() const {
    return kHalves && a_.x.type == ffi::BF16 && a_.y.type == ffi::BF16 && a_.activation == kNone;
  }

  // Of a row, the `slot`-th of those together.
  Moments moments_of(int64_t row, int64_t slot) {
    const int64_t from = row * a_.n;
    Moments moments;
    const auto add = [&](const auto* x, int64_t count) {
      if (a_.centred) {
        moments.add(moments_of_block<C>(x, count));
      } else {
        moments.squares += squares_of_block<C>(x, count);
      }
    };
    if constexpr (kHalves) {
      if (in_bfloat16()) {
        const uint16_t* x = added_bfloat16(from);
        for (int64_t at = 0; at < a_.n; at += kBlock<C>) add(x + at, std::min(kBlock<C>, a_.n - at));
        return moments;
      }
    }
    for (int64_t at = 0; at < a_.n; at += kBlock<C>) {
      const int64_t count = std::min(kBlock<C>, a_.n - at);
      add(normalized(from + at, count, slot_of(slot)), count);
    }
    return moments;
  }

  // Where a row is kept widened, which one alone may be that is longer than a block.
  C* slot_of(int64_t slot) { return wide_ + (a_.n > kBlock<C> ? 0 : slot * a_.n); }

  // What the rows are normalized by, which is kept for a gradient.
  Centres centres_of(const double* mean, const double* squares, int64_t first, int64_t count) const {
    Centres centres;
    for (int64_t i = 0; i < kTogether; ++i) {
      const C high = static_cast<C>(mean[i]);
      const double low = std::isfinite(mean[i]) ? mean[i] - static_cast<double>(high) : 0;
      centres.high[i] = high;
      centres.left[i] = static_cast<C>(low);
      centres.r[i] = static_cast<C>(1.0 / std::sqrt(squares[i] / a_.n + a_.epsilon));
    }
    if (a_.statistics.data) {
      C* statistics = static_cast<C*>(a_.statistics.data) + first;
      std::copy_n(centres.high, count, statistics);
      std::copy_n(centres.left, count, statistics + a_.rows);
      std::copy_n(centres.r, count, statistics + 2 * a_.rows);
    }
    for (int64_t i = 0; i < kTogether; ++i) {
      centres.left[i] = centres.left[i] == 0 ? C(0) : -centres.left[i] * centres.r[i];
    }
    return centres;
  }

  // x of a row, or x + residual, which is kept as z.
  const uint16_t* added_bfloat16(int64_t from) const {
    const auto* x = static_cast<const uint16_t*>(a_.x.data) + from;
    if (!a_.residual.data) return x;
    const auto* residual = static_cast<const uint16_t*>(a_.residual.data) + from;
    auto* z = static_cast<uint16_t*>(a_.z.data) + from;
    in_lanes<C>(a_.n, [&](auto kind, int64_t i, int) {
      using K = decltype(kind);
      round_into<K>(z + i, load<K>(x + i) + load<K>(residual + i));
    });
    return z;
  }

  // The mean's second number is far below what bfloat16 tells apart.
  void scale_bfloat16(int64_t row, C high, C r) const {
    if constexpr (kHalves) {
      const int64_t from = row * a_.n;
      const auto* x = static_cast<const uint16_t*>(source().data) + from;
      const C* gamma = gamma_ + row % a_.period * a_.n;
      auto* y = static_cast<uint16_t*>(a_.y.data) + from;
      if (beta_) {
        const C* beta = beta_ + row % a_.period * a_.n;
        in_lanes<C>(a_.n, [&](auto kind, int64_t i, int) {
          using K = decltype(kind);
          round_into<K>(y + i, (load<K>(x + i) - high) * r * load<K>(gamma + i) + load<K>(beta + i));
        });
      } else {
        in_lanes<C>(a_.n, [&](auto kind, int64_t i, int) {
          using K = decltype(kind);
          round_into<K>(y + i, load<K>(x + i) * r * load<K>(gamma + i));
        });
      }
    }
  }

  template <int A>
  void scale_row(int64_t row, int64_t slot, C high, C left, C r) {
    const int64_t from = row * a_.n, parameters = row % a_.period * a_.n;
    const Array& wide = source();
    for (int64_t at = 0; at < a_.n; at += kMade) {
      const int64_t count = std::min(kMade, a_.n - at);
      const C* x = a_.n > kBlock<C> || wide.type == kType<C> ? read(wide, from + at, count, wide_) : slot_of(slot) + at;
      C* y = place(a_.y, from + at, made_);
      scale<A>(y, x, parameters + at, count, high, left, r);
      keep(a_.y, from + at, count, y);
    }
  }

  const Array& source() const { return a_.residual.data ? a_.z : a_.x; }

  // What is normalized: x, or x + residual rounded to z's type.
  const C* normalized(int64_t at, int64_t n, C* wide) {
    if (!a_.residual.data) return read(a_.x, at, n, wide);
    for (int64_t part = 0; part < n; part += kPart) {  // small enough to stay near, whatever is converted
      const int64_t here = at + part, count = std::min(kPart, n - part);
      const C *x = read(a_.x, here, count, wide + part), *residual = read(a_.residual, here, count, other_);
      C* z = place(a_.z, here, made_);
      for (int64_t i = 0; i < count; ++i) z[i] = x[i] + residual[i];
      keep(a_.z, here, count, z);
      read(a_.z, here, count, wide + part);
    }
    return a_.z.type == kType<C> ? static_cast<const C*>(a_.z.data) + at : wide;
  }

  template <int A>
  void scale(C* __restrict y, const C* __restrict x, int64_t parameters, int64_t n, C high, C left,
             C r) const {
    const C* __restrict gamma = gamma_ + parameters;
    if (beta_) {
      const C* __restrict beta = beta_ + parameters;
      for (int64_t i = 0; i < n; ++i) y[i] = activated<A>(((x[i] - high) * r + left) * gamma[i] + beta[i]);
    } else {
      for (int64_t i = 0; i < n; ++i) y[i] = activated<A>(x[i] * r * gamma[i]);
    }
  }

  // x, and dy times the slope of the activation.
  template <int A>
  std::pair<const C*, const C*> both(int64_t at, int64_t parameters, int64_t n, const Centre<C>& centre) {
    const C* x = read(a_.x, at, n, wide_);
    const C* dy = read(a_.dy, at, n, other_);
    if constexpr (A == kNone) return {x, dy};
    const C* gamma = gamma_ + parameters;
    const C high = centre.high, left = centre.left(), r = centre.r;
    if (beta_) {
      const C* beta = beta_ + parameters;
      for (int64_t i = 0; i < n; ++i) other_[i] = dy[i] * slope<A>(((x[i] - high) * r + left) * gamma[i] + beta[i]);
    } else {
      for (int64_t i = 0; i < n; ++i) other_[i] = dy[i] * slope<A>((x[i] - high) * r * gamma[i]);
    }
    return {x, other_};
  }

  void sums(const C* x, const C* dy, int64_t parameters, int64_t n, const Centre<C>& centre, C* dgamma, C* dbeta,
            double& plain, double& weighted) const {
    const C* gamma = gamma_ + parameters;
    const C high = centre.high, left = centre.left(), r = centre.r;
    Sum<C> first, second;
    in_lanes<C>(n, [&](auto kind, int64_t i, int lane) {
      using K = decltype(kind);
      const K d = load<K>(dy + i), h = (load<K>(x + i) - high) * r + left, product = d * h;
      const K scale = load<K>(gamma + i);
      first.add(rounded(scale * d), lane);
      second.add(scale * product, lane);
      K sum = load<K>(dgamma + i) + product;
      std::memcpy(dgamma + i, &sum, sizeof(K));
      if (dbeta) {
        sum = load<K>(dbeta + i) + d;
        std::memcpy(dbeta + i, &sum, sizeof(K));
      }
    });
    plain += first.total();
    weighted += second.total();
  }

  const Rows& a_;
  const C *gamma_, *beta_;
  alignas(64) C wide_[kBlock<C>];
  alignas(64) C other_[kBlock<C>];
  alignas(64) C made_[kBlock<C>];
};

template <class C>
void rows_forward(ffi::ThreadPool& pool, const Rows& a) {
  const Parameter<C> gamma(a.gamma, a.period * a.n), beta(a.beta, a.beta.data ? a.period * a.n : 0);
  const int64_t elements = a.rows * a.n;
  const int64_t tasks = std::min(a.rows, std::min<int64_t>(64, ceil_of(elements, 16384)));
  const int64_t each = ceil_of(a.rows, tasks);
  shared(pool, ceil_of(a.rows, each), elements < kSmall, [&](int64_t task) {
    RowTask<C> rows(a, gamma.data(), a.beta.data ? beta.data() : nullptr);
    rows.forward(task * each, std::min(a.rows, (task + 1) * each));
  });
}

inline constexpr int64_t kRowsAtOnce = 32;  // that are added in the type of the computation, before float64

template <class C>
void rows_backward(ffi::ThreadPool& pool, const Rows& a) {
  const int64_t length = a.period * a.n, elements = a.rows * a.n;
  const Parameter<C> gamma(a.gamma, length), beta(a.beta, a.beta.data ? length : 0);
  // Each task has sums of its own, which are added in the order of the tasks.
  const int64_t most = std::max<int64_t>(1, std::min<int64_t>(32, ceil_of(elements, 4 * length)));
  const int64_t tasks = std::min(a.rows, std::min(most, ceil_of(elements, 16384)));
  const int64_t each = ceil_of(a.rows, tasks), count = ceil_of(a.rows, each);
  std::vector<double> partial(count * 2 * length, 0.0);
  shared(pool, count, elements < kSmall, [&](int64_t task) {
    RowTask<C> rows(a, gamma.data(), a.beta.data ? beta.data() : nullptr);
    const int64_t end = std::min(a.rows, (task + 1) * each);
    std::vector<C> sums(2 * length, C(0));
    double* total = partial.data() + task * 2 * length;
    for (int64_t start = task * each; start < end; start += kRowsAtOnce * a.period) {
      for (int64_t row = start; row < std::min(end, start + kRowsAtOnce * a.period); ++row) {
        C* dgamma = sums.data() + row % a.period * a.n;
        rows.backward(row, dgamma, a.dbeta.data ? dgamma + length : nullptr);
      }
      for (int64_t i = 0; i < 2 * length; ++i) total[i] += sums[i];
      std::fill(sums.begin(), sums.end(), C(0));
    }
  });
  const int64_t strip = 1024;
  shared(pool, ceil_of(length, strip), count * length < kSmall, [&](int64_t task) {
    const int64_t from = task * strip, n = std::min(strip, length - from);
    double total[1024];
    alignas(64) C made[1024];
    for (int64_t which = 0; which < (a.dbeta.data ? 2 : 1); ++which) {
      std::fill(total, total + n, 0.0);
      for (int64_t part = 0; part < count; ++part) {
        const double* add = partial.data() + part * 2 * length + which * length + from;
        for (int64_t i = 0; i < n; ++i) total[i] += add[i];
      }
      for (int64_t i = 0; i < n; ++i) made[i] = static_cast<C>(total[i]);
      keep(which ? a.dbeta : a.dgamma, from, n, made);
    }
  });
}

}  // namespace normbench
