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
  Array y, z, statistics;          // high, low and r of each row
  Array dy, dz, dx, dgamma, dbeta;
};

inline constexpr int64_t kPart = 256;

template <class C>
class RowTask {
 public:
  RowTask(const Rows& a, const C* gamma, const C* beta) : a_(a), gamma_(gamma), beta_(beta) {}

  void forward(int64_t row) {
    if constexpr (sizeof(C) == 4) {
      if (a_.x.type == ffi::BF16 && a_.y.type == ffi::BF16 && a_.activation == kNone) return forward_bfloat16(row);
    }
    const int64_t from = row * a_.n;
    const C* x = nullptr;
    Moments moments;
    for (int64_t at = 0; at < a_.n; at += kBlock<C>) {
      const int64_t count = std::min(kBlock<C>, a_.n - at);
      x = normalized(from + at, count);
      if (a_.centred) {
        moments.add(moments_of_block<C>(x, count));
      } else {
        moments.squares += squares_of_block<C>(x, count);
      }
    }
    const auto centre = centre_of(moments, row);
    const int64_t parameters = row % a_.period * a_.n;
    with_activation(a_.activation, [&](auto act) {
      for (int64_t at = 0; at < a_.n; at += kBlock<C>) {
        const int64_t count = std::min(kBlock<C>, a_.n - at);
        if (a_.n > kBlock<C>) x = read(source(), from + at, count, wide_);
        for (int64_t part = 0; part < count; part += kMade) {
          const int64_t here = at + part, few = std::min(kMade, count - part);
          C* y = place(a_.y, from + here, made_);
          scale<act.value>(y, x + part, parameters + here, few, centre);
          keep(a_.y, from + here, few, y);
        }
      }
    });
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
          dx[i] = gamma[i] * (r * dy[i]) - plain_r - ((x[i] - high) * r + left) * weighted_r;
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
  // The same in one pass after another over bfloat16 as it lies there: nothing wide is written.
  void forward_bfloat16(int64_t row) {
    const int64_t from = row * a_.n;
    const auto* x = static_cast<const uint16_t*>(a_.x.data) + from;
    if (a_.residual.data) {
      const auto* residual = static_cast<const uint16_t*>(a_.residual.data) + from;
      auto* z = static_cast<uint16_t*>(a_.z.data) + from;
      in_lanes<C>(a_.n, [&](auto kind, int64_t i, int) {
        using K = decltype(kind);
        round_into<K>(z + i, load<K>(x + i) + load<K>(residual + i));
      });
      x = z;
    }
    Moments moments;
    for (int64_t at = 0; at < a_.n; at += kBlock<C>) {
      const int64_t count = std::min(kBlock<C>, a_.n - at);
      if (a_.centred) {
        moments.add(moments_of_block<C>(x + at, count));
      } else {
        moments.squares += squares_of_block<C>(x + at, count);
      }
    }
    const auto centre = centre_of(moments, row);
    const C high = centre.high, left = centre.left(), r = centre.r;
    const C* gamma = gamma_ + row % a_.period * a_.n;
    auto* y = static_cast<uint16_t*>(a_.y.data) + from;
    if (beta_) {
      const C* beta = beta_ + row % a_.period * a_.n;
      in_lanes<C>(a_.n, [&](auto kind, int64_t i, int) {
        using K = decltype(kind);
        round_into<K>(y + i, ((load<K>(x + i) - high) * r + left) * load<K>(gamma + i) + load<K>(beta + i));
      });
    } else {
      in_lanes<C>(a_.n, [&](auto kind, int64_t i, int) {
        using K = decltype(kind);
        round_into<K>(y + i, load<K>(x + i) * r * load<K>(gamma + i));
      });
    }
  }

  // What the row is normalized by, which is kept for the gradient.
  Centre<C> centre_of(const Moments& moments, int64_t row) const {
    const auto centre = Centre<C>::of(moments.mean, moments.squares / a_.n, a_.epsilon);
    C* statistics = static_cast<C*>(a_.statistics.data);
    statistics[row] = centre.high;
    statistics[a_.rows + row] = centre.low;
    statistics[2 * a_.rows + row] = centre.r;
    return centre;
  }

  const Array& source() const { return a_.residual.data ? a_.z : a_.x; }

  // What is normalized: x, or x + residual rounded to z's type.
  const C* normalized(int64_t at, int64_t n) {
    if (!a_.residual.data) return read(a_.x, at, n, wide_);
    for (int64_t part = 0; part < n; part += kPart) {  // small enough to stay near, whatever is converted
      const int64_t here = at + part, count = std::min(kPart, n - part);
      const C *x = read(a_.x, here, count, wide_ + part), *residual = read(a_.residual, here, count, other_);
      C* z = place(a_.z, here, made_);
      for (int64_t i = 0; i < count; ++i) z[i] = x[i] + residual[i];
      keep(a_.z, here, count, z);
      read(a_.z, here, count, wide_ + part);
    }
    return a_.z.type == kType<C> ? static_cast<const C*>(a_.z.data) + at : wide_;
  }

  template <int A>
  void scale(C* __restrict y, const C* __restrict x, int64_t parameters, int64_t n, const Centre<C>& centre) const {
    const C* __restrict gamma = gamma_ + parameters;
    const C high = centre.high, left = centre.left(), r = centre.r;
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
      first.add(scale * d, lane);
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
    for (int64_t row = task * each; row < std::min(a.rows, (task + 1) * each); ++row) rows.forward(row);
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
