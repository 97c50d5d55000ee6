// Norms whose scale is one number along the positions of a channel: batch, group and instance norm, channels first.
#pragma once

#include "activations.h"
#include "arrays.h"
#include "lanes.h"

namespace normbench {

// A unit shares its statistics: of batch norm a channel in every image, else the channels of one group of an image.
struct Segments {
  const int64_t images, channels, positions, groups;  // groups 0: batch norm
  const int64_t given, activation;                    // given: mean and variance are arguments
  const double epsilon, momentum;
  const bool batch = groups == 0;
  const int64_t units = batch ? channels : images * groups;
  const int64_t pieces = batch ? images : channels / groups;  // of a unit, each of one channel
  const int64_t terms = pieces * positions;
  const int64_t runs = batch ? images : 1, run = batch ? positions : terms;  // of a unit, in memory; a run's length
  Array x = {}, gamma = {}, beta = {}, mean = {}, variance = {};
  Array y = {}, statistics = {}, new_mean = {}, new_variance = {};  // statistics: high, low, r of each unit
  Array dy = {}, dx = {}, dgamma = {}, dbeta = {};

  int64_t start(int64_t unit, int64_t piece) const {
    return batch ? (piece * channels + unit) * positions : (unit * pieces + piece) * positions;
  }
  int64_t channel(int64_t unit, int64_t piece) const { return batch ? unit : unit % groups * pieces + piece; }
};

// Calls run(offset, count) for the pieces of [from, from + n) that fit a block.
template <class C, class Run>
inline void in_blocks(int64_t from, int64_t n, const Run& run, int64_t block = kBlock<C>) {
  for (int64_t at = 0; at < n; at += block) run(from + at, std::min(block, n - at));
}

// Of x, read once or more; of runs shorter than a block some together make one.
template <class C>
Centre<C> centre_of(const Segments& a, int64_t unit, C* scratch) {
  const int64_t together = a.runs == 1 || a.run > kBlock<C> ? 1 : kBlock<C> / std::max<int64_t>(a.run, 1);
  Moments moments;
  for (int64_t run = 0; run < a.runs; run += together) {
    const int64_t count = std::min(together, a.runs - run);
    for (int64_t at = 0; at < a.run; at += kBlock<C>) {
      const int64_t n = std::min(kBlock<C>, a.run - at);
      const auto start = [&](int64_t i) { return a.start(unit, run + i) + at; };
      if constexpr (sizeof(C) == 4) {
        if (in_bfloat16(a.x)) {
          moments.add(moments_of_runs<C>(count, n, [&](int64_t i) { return halves(a.x) + start(i); }));
          continue;
        }
      }
      moments.add(moments_of_runs<C>(count, n, [&](int64_t i) { return read(a.x, start(i), n, scratch); }));
    }
  }
  return Centre<C>::of(moments.mean, moments.squares / a.terms, a.epsilon);
}

template <class C>
Centre<C> centre_given(const Segments& a, int64_t channel) {
  C high, variance;
  high = *read(a.mean, channel, 1, &high);
  variance = *read(a.variance, channel, 1, &variance);
  Centre<C> centre = Centre<C>::of(0, variance, a.epsilon);
  centre.high = high;
  return centre;
}

template <class C>
Centre<C> centre_kept(const Segments& a, int64_t unit) {
  const C* statistics = static_cast<const C*>(a.statistics.data);
  Centre<C> centre;
  centre.high = statistics[unit];
  centre.low = statistics[a.units + unit];
  centre.r = statistics[2 * a.units + unit];
  return centre;
}

// The running statistics moved towards the batch's, of which the variance is unbiased.
template <class C>
void move_running(const Segments& a, int64_t unit, const Centre<C>& centre) {
  C old;
  const double unbiased = static_cast<double>(a.terms) / (a.terms - 1);
  old = *read(a.mean, unit, 1, &old);
  C moved = static_cast<C>((1 - a.momentum) * old + a.momentum * (static_cast<double>(centre.high) + centre.low));
  keep(a.new_mean, unit, 1, &moved);
  old = *read(a.variance, unit, 1, &old);
  moved = static_cast<C>((1 - a.momentum) * old + a.momentum * unbiased * centre.variance);
  keep(a.new_variance, unit, 1, &moved);
}

// y = act((x - high) * scale + shift), with the same three for all.
template <int A, class C, class Stored>
inline void scale_evenly(Stored* __restrict y, const Stored* __restrict x, int64_t n, C high, C scale, C shift) {
  if constexpr (kOfVectors<A>) {
    in_lanes<C>(n, [&](auto kind, int64_t i, int) {
      store(y + i, activated<A>((load<decltype(kind)>(x + i) - high) * scale + shift));
    });
  } else {
    for (int64_t i = 0; i < n; ++i) y[i] = activated<A>((x[i] - high) * scale + shift);
  }
}

template <class C>
void scale_piece(const Segments& a, int64_t from, const Centre<C>& centre, C gamma, C beta, C* wide, C* made) {
  const C high = centre.high, scale = centre.r * gamma, shift = beta + centre.left() * gamma;
  with_activation(a.activation, [&](auto act) {
    if constexpr (kOfVectors<act.value> && sizeof(C) == 4) {
      if (in_bfloat16(a.x) && in_bfloat16(a.y)) {
        const uint16_t* x = halves(a.x) + from;
        return scale_evenly<act.value>(halves(a.y) + from, x, a.positions, high, scale, shift);
      }
    }
    in_blocks<C>(from, a.positions, [&](int64_t at, int64_t count) {
      C* y = place(a.y, at, made);
      scale_evenly<act.value>(y, read(a.x, at, count, wide), count, high, scale, shift);
      keep(a.y, at, count, y);
    }, kMade);
  });
}

// How many units one task takes: whole runs of memory, and tasks enough.
inline int64_t units_at_once(const Segments& a) {
  return std::max<int64_t>(1, std::min(ceil_of(16384, std::max<int64_t>(a.run, 1)), ceil_of(a.units, 16)));
}

inline constexpr int64_t kLong = 256;  // positions that need no scale of their own

// Inference of long runs: each channel of each image by itself.
template <class C>
void segments_given_long(ffi::ThreadPool& pool, const Segments& a) {
  const Parameter<C> gamma(a.gamma, a.channels), beta(a.beta, a.channels);
  const int64_t runs = a.images * a.channels, elements = runs * a.positions;
  const int64_t tasks = std::min<int64_t>(runs, std::min<int64_t>(64, ceil_of(elements, 16384)));
  const int64_t each = ceil_of(runs, tasks);
  shared(pool, ceil_of(runs, each), elements < kSmall, [&](int64_t task) {
    alignas(64) C wide[kMade], made[kMade];
    for (int64_t run = task * each; run < std::min(runs, (task + 1) * each); ++run) {
      const int64_t channel = run % a.channels;
      const auto centre = centre_given<C>(a, channel);
      scale_piece<C>(a, run * a.positions, centre, gamma[channel], beta[channel], wide, made);
    }
  });
}

// Inference: tiles of some channels, of which scale and shift are spread over the positions once for all images.
template <class C>
void segments_given_forward(ffi::ThreadPool& pool, const Segments& a) {
  const Parameter<C> gamma(a.gamma, a.channels), beta(a.beta, a.channels);
  const int64_t elements = a.images * a.channels * a.positions;
  const int64_t together = std::max<int64_t>(1, kMade / a.positions), tiles = ceil_of(a.channels, together);
  const int64_t each = ceil_of(tiles, std::min<int64_t>(tiles, 64));
  const auto run = [&](int64_t tile) {
    alignas(64) C wide[kMade], made[kMade], high[kMade], scale[kMade], shift[kMade];
    const int64_t begin = tile * together, end = std::min(a.channels, begin + together);
    for (int64_t channel = begin; channel < end; ++channel) {
      const auto centre = centre_given<C>(a, channel);
      const int64_t from = (channel - begin) * a.positions, to = from + a.positions;
      std::fill(high + from, high + to, centre.high);
      std::fill(scale + from, scale + to, centre.r * gamma[channel]);
      std::fill(shift + from, shift + to, beta[channel]);
    }
    with_activation(a.activation, [&](auto act) {
      for (int64_t image = 0; image < a.images; ++image) {
        const int64_t start = (image * a.channels + begin) * a.positions, next = start + a.channels * a.positions;
        if (image + 1 < a.images) ask_for(a.x, next, (end - begin) * a.positions);
        in_blocks<C>(start, (end - begin) * a.positions, [&](int64_t at, int64_t count) {
          scale_run<act.value>(a.y, a.x, at, count, high, scale, shift, wide, made);
        }, kMade);
      }
    });
  };
  shared(pool, ceil_of(tiles, each), elements < kSmall, [&](int64_t task) {
    for (int64_t tile = task * each; tile < std::min(tiles, (task + 1) * each); ++tile) run(tile);
  });
}

template <class C>
void segments_forward(ffi::ThreadPool& pool, const Segments& a) {
  if (a.given) return a.positions < kLong ? segments_given_forward<C>(pool, a) : segments_given_long<C>(pool, a);
  const Parameter<C> gamma(a.gamma, a.channels), beta(a.beta, a.channels);
  const int64_t each = units_at_once(a), units = a.units;
  shared(pool, ceil_of(units, each), units * a.terms < kSmall, [&](int64_t task) {
    alignas(64) C wide[kBlock<C>];
    alignas(64) C made[kBlock<C>];
    const int64_t begin = task * each, end = std::min(units, begin + each);
    C* statistics = static_cast<C*>(a.statistics.data);
    if (a.runs > 1 && a.run < kLong) {  // too short for the processor to foresee the next
      for (int64_t image = 0; image < a.images; ++image) ask_for(a.x, a.start(begin, image), (end - begin) * a.run);
    }
    for (int64_t unit = begin; unit < end; ++unit) {
      const auto centre = centre_of<C>(a, unit, wide);
      statistics[unit] = centre.high;
      statistics[units + unit] = centre.low;
      statistics[2 * units + unit] = centre.r;
      if (a.new_mean.data) move_running(a, unit, centre);
    }
    for (int64_t piece = 0; piece < a.pieces; ++piece) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t channel = a.channel(unit, piece);
        const C scale = gamma[channel], shift = beta[channel];
        scale_piece<C>(a, a.start(unit, piece), centre_kept<C>(a, unit), scale, shift, wide, made);
      }
    }
  });
}

// What dz = dy times the slope is kept for the second reading in: in the place of dx where that is as wide, else here.
template <class C>
struct Sloped {
  std::vector<C> held;

  Sloped(const Segments& a, int64_t terms) {
    if (a.activation != kNone && a.dx.type != kType<C> && terms <= kMostHeld) held.resize(terms);
  }
  // Of a block, `offset` from the first term of its unit; nullptr where it is not kept.
  C* at(const Segments& a, int64_t at, int64_t offset) {
    if (a.dx.type == kType<C>) return static_cast<C*>(a.dx.data) + at;
    return held.empty() ? nullptr : held.data() + offset;
  }

  static constexpr int64_t kMostHeld = 131072;  // which the second cache holds
};

// x and dz of one block; `again`: dz was made before, and kept where `kept` is.
template <int A, class C>
inline std::pair<const C*, const C*> run_of_both(const Segments& a, int64_t at, int64_t n, const Centre<C>& centre,
                                                 C gamma, C beta, C* wide, C* other, C* kept, bool again) {
  const C* x = read(a.x, at, n, wide);
  if (A != kNone && again && kept) return {x, kept};
  const C* dy = read(a.dy, at, n, other);
  if constexpr (A == kNone) return {x, dy};
  const C high = centre.high, scale = centre.r * gamma, shift = beta + centre.left() * gamma;
  C* dz = kept ? kept : other;
  for (int64_t i = 0; i < n; ++i) dz[i] = dy[i] * slope<A>((x[i] - high) * scale + shift);
  return {x, dz};
}

struct Pulled {
  double plain = 0, weighted = 0;  // sums of dz and of dz h
};

template <class C>
Pulled sums_of_piece(const Segments& a, int64_t from, const Centre<C>& centre, C gamma, C beta, Sloped<C>& sloped,
                     int64_t offset, C* wide, C* other) {
  Pulled pulled;
  const C high = centre.high, left = centre.left(), r = centre.r;
  with_activation(a.activation, [&](auto act) {
    in_blocks<C>(from, a.positions, [&](int64_t at, int64_t count) {
      const auto [x, dz] = run_of_both<act.value>(a, at, count, centre, gamma, beta, wide, other,
                                                    sloped.at(a, at, offset + at - from), false);
      const C *xs = x, *ds = dz;
      Sum<C> plain, weighted;
      in_lanes<C>(count, [&](auto kind, int64_t i, int lane) {
        using K = decltype(kind);
        const K d = load<K>(ds + i);
        plain.add(d, lane);
        weighted.add(d * ((load<K>(xs + i) - high) * r + left), lane);
      });
      pulled.plain += plain.total();
      pulled.weighted += weighted.total();
    });
  });
  return pulled;
}

template <class C>
void pull_piece(const Segments& a, int64_t from, const Centre<C>& centre, C gamma, C beta, C plain, C weighted,
                Sloped<C>& sloped, int64_t offset, C* wide, C* other, C* made) {
  const C high = centre.high, left = centre.left(), r = centre.r;
  const C scale = r * gamma, plain_r = r * plain, weighted_r = r * weighted;
  with_activation(a.activation, [&](auto act) {
    in_blocks<C>(from, a.positions, [&](int64_t at, int64_t count) {
      const auto [x, dz] = run_of_both<act.value>(a, at, count, centre, gamma, beta, wide, other,
                                                    sloped.at(a, at, offset + at - from), true);
      const C *xs = x, *ds = dz;
      C* dx = place(a.dx, at, made);
      if (a.given) {  // of which x is no part, infinite or no number as it may be
        for (int64_t i = 0; i < count; ++i) dx[i] = scale * ds[i];
      } else {
        for (int64_t i = 0; i < count; ++i) dx[i] = rounded(scale * ds[i]) - plain_r - ((xs[i] - high) * r + left) * weighted_r;
      }
      keep(a.dx, at, count, dx);
    }, kMade);
  });
}

template <class C>
void segments_backward(ffi::ThreadPool& pool, const Segments& a) {
  const Parameter<C> gamma(a.gamma, a.channels), beta(a.beta, a.channels);
  const int64_t each = units_at_once(a), units = a.units, pieces = a.pieces;
  std::vector<Pulled> pulled(units * (a.batch ? 1 : pieces));
  shared(pool, ceil_of(units, each), units * a.terms < kSmall, [&](int64_t task) {
    alignas(64) C wide[kBlock<C>];
    alignas(64) C other[kBlock<C>];
    alignas(64) C made[kBlock<C>];
    Sloped<C> sloped(a, a.terms);
    for (int64_t unit = task * each; unit < std::min(units, (task + 1) * each); ++unit) {
      const auto centre = a.given ? centre_given<C>(a, unit) : centre_kept<C>(a, unit);
      double plain = 0, weighted = 0;
      for (int64_t piece = 0; piece < pieces; ++piece) {
        const int64_t channel = a.channel(unit, piece);
        const C scale = gamma[channel];
        const Pulled sums = sums_of_piece<C>(a, a.start(unit, piece), centre, scale, beta[channel], sloped,
                                             piece * a.positions, wide, other);
        Pulled& kept = pulled[a.batch ? unit : unit * pieces + piece];
        kept.plain += sums.plain;
        kept.weighted += sums.weighted;
        plain += scale * sums.plain;
        weighted += scale * sums.weighted;
      }
      const C mean_plain = a.given ? C(0) : static_cast<C>(plain / a.terms);
      const C mean_weighted = a.given ? C(0) : static_cast<C>(weighted / a.terms);
      for (int64_t piece = 0; piece < pieces; ++piece) {
        const int64_t channel = a.channel(unit, piece);
        pull_piece<C>(a, a.start(unit, piece), centre, gamma[channel], beta[channel], mean_plain, mean_weighted, sloped,
                      piece * a.positions, wide, other, made);
      }
    }
  });
  for (int64_t channel = 0; channel < a.channels; ++channel) {
    Pulled sum;
    for (int64_t image = 0; image < (a.batch ? 1 : a.images); ++image) {
      const Pulled& part = pulled[image * a.channels + channel];
      sum.plain += part.plain;
      sum.weighted += part.weighted;
    }
    const C dgamma = static_cast<C>(sum.weighted), dbeta = static_cast<C>(sum.plain);
    keep(a.dgamma, channel, 1, &dgamma);
    keep(a.dbeta, channel, 1, &dbeta);
  }
}

}  // namespace normbench
