// Norms whose channels are the last axis: batch, group and instance norm, channels last.
#pragma once

#include "activations.h"
#include "arrays.h"
#include "lanes.h"
#include "tiles.h"

namespace normbench {

// What the elements of a row meet, each `wide` long: z = (x - high) * scale + shift, h = (x - high) * r + left,
// dx = scale * dz - plain - h * weighted.
template <class C>
struct Vectors {
  std::vector<C> all;
  C *high, *scale, *shift, *r, *left, *plain, *weighted;

  explicit Vectors(int64_t wide) : all(7 * wide, C(0)) {
    C** const each[] = {&high, &scale, &shift, &r, &left, &plain, &weighted};
    for (int64_t i = 0; i < 7; ++i) *each[i] = all.data() + i * wide;
  }

  Vectors(const Vectors&) = delete;
  Vectors(Vectors&&) = default;

  void set(int64_t c, const Centre<C>& centre, C g, C b) {
    high[c] = centre.high;
    r[c] = centre.r;
    scale[c] = centre.r * g;
    shift[c] = b + centre.left() * g;
    left[c] = centre.left();
  }

  void repeat(int64_t channels, int64_t wide) {
    for (int64_t start = 0; start < static_cast<int64_t>(all.size()); start += wide) {
      for (int64_t c = channels; c < wide; ++c) all[start + c] = all[start + c - channels];
    }
  }
};

template <class C>
std::vector<Vectors<C>> vectors_of(int64_t images, int64_t wide) {
  std::vector<Vectors<C>> vectors;
  vectors.reserve(images);
  for (int64_t i = 0; i < images; ++i) vectors.emplace_back(wide);
  return vectors;
}

// dz = dy times the slope of the activation.
template <int A, class C, class Stored>
__attribute__((noinline)) void slope_row(C* __restrict dz, const Stored* __restrict dy, const Stored* __restrict x,
                                         const C* __restrict high, const C* __restrict scale, const C* __restrict shift,
                                         int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    dz[i] = load<C>(dy + i) * slope<A>((load<C>(x + i) - high[i]) * scale[i] + shift[i]);
  }
}

// The sums of dz and of dz (x - high) r over the rows of some columns.
template <int N, class C, class K, class Stored, class Pulled>
inline void add_pulls(const Stored* x, int64_t stride, const Pulled* dz, int64_t dz_stride, int64_t rows, const C* high,
                      const C* r, C* plain, C* weighted) {
  constexpr int64_t width = sizeof(K) / sizeof(C);
  K middle[N], factor[N], first[N] = {}, second[N] = {};
  for (int i = 0; i < N; ++i) {
    middle[i] = load<K>(high + i * width);
    factor[i] = load<K>(r + i * width);
  }
  for (int64_t row = 0; row < rows; ++row) {
    for (int i = 0; i < N; ++i) {
      const K d = load<K>(dz + row * dz_stride + i * width);
      first[i] += d;
      second[i] += d * ((load<K>(x + row * stride + i * width) - middle[i]) * factor[i]);
    }
  }
  for (int i = 0; i < N; ++i) {
    store(plain + i * width, first[i]);
    store(weighted + i * width, second[i]);
  }
}

template <class C, class Stored, class Out>
__attribute__((noinline)) void pull_row(Out* __restrict dx, const Stored* __restrict dz, const Stored* __restrict x,
                                        const C* __restrict high, const C* __restrict scale, const C* __restrict r,
                                        const C* __restrict left, const C* __restrict plain,
                                        const C* __restrict weighted, int64_t n) {
  in_lanes<C>(n, [&](auto kind, int64_t i, int) {
    using K = decltype(kind);
    const K h = (load<K>(x + i) - load<K>(high + i)) * load<K>(r + i) + load<K>(left + i);
    store(dx + i, rounded(load<K>(scale + i) * load<K>(dz + i)) - load<K>(plain + i) - h * load<K>(weighted + i));
  });
}

template <class C>
void columns_forward(ffi::ThreadPool& pool, const Columns& a) {
  const Parameter<C> gamma(a.gamma, a.channels), beta(a.beta, a.channels);
  const Cut cut(a);
  const int64_t tasks = a.images * cut.parts * cut.strips, units = a.images * a.groups, channels = a.channels;
  const bool small = a.elements() < kSmall;
  auto vectors = vectors_of<C>(a.images, cut.wide);
  const auto scale_piece = [&](int64_t task) {
    alignas(64) C wide[1024];
    alignas(64) C made[1024];
    const Piece piece(a, cut, task);
    const Vectors<C>& v = vectors[piece.image];
    with_activation(a.activation, [&](auto act) {
      in_runs(a, cut, piece, [&](int64_t at, int64_t column, int64_t n) {
        scale_run<act.value>(a.y, a.x, at, n, v.high + column, v.scale + column, v.shift + column, wide, made);
      });
    });
  };
  if (a.given) {
    const Parameter<C> mean(a.mean, channels), variance(a.variance, channels);
    for (int64_t c = 0; c < channels; ++c) {
      auto centre = Centre<C>::of(0, variance[c], a.epsilon);
      centre.high = mean[c];
      vectors[0].set(c, centre, gamma[c], beta[c]);
    }
    vectors[0].repeat(channels, cut.wide);
    return shared(pool, tasks, small, scale_piece);
  }
  std::vector<double> sums(a.images * cut.parts * 2 * channels, 0.0);
  const auto sum_piece = [&](int64_t task) {
    const Piece piece(a, cut, task);
    double* into = sums.data() + piece.sums;
    moments_of_piece<C>(a, cut, piece, into, into + channels);
  };
  // Of the channels of a piece, in all parts of its image.
  const auto centre = [&](const Piece& piece) {
    const int64_t image = piece.image;
    double* first = sums.data() + image * cut.parts * 2 * channels;
    ColumnMoments all{static_cast<double>(cut.rows), first, first + channels};
    if (cut.parts == 1) all.count = a.rows;
    for (int64_t part = 1; part < cut.parts; ++part) {
      const double* other = first + part * 2 * channels;
      all.add(std::min(cut.rows, a.rows - part * cut.rows), other, other + channels, channels);
    }
    C* statistics = static_cast<C*>(a.statistics.data);
    for (int64_t group = piece.column / a.each(); group * a.each() < piece.column + piece.columns; ++group) {
      Moments moments;
      const int64_t begin = group * a.each();
      for (int64_t c = begin; c < begin + a.each(); ++c) moments.add({all.count, all.mean[c], all.squares[c]});
      const auto centre = Centre<C>::of(moments.mean, moments.squares / moments.count, a.epsilon);
      const int64_t unit = image * a.groups + group;
      statistics[unit] = centre.high;
      statistics[units + unit] = centre.low;
      statistics[2 * units + unit] = centre.r;
      for (int64_t c = begin; c < begin + a.each(); ++c) vectors[image].set(c, centre, gamma[c], beta[c]);
      if (a.new_mean.data) {
        const double unbiased = moments.squares / (moments.count - 1);
        C old;
        old = *read(a.mean, group, 1, &old);
        C moved = static_cast<C>((1 - a.momentum) * old + a.momentum * moments.mean);
        keep(a.new_mean, group, 1, &moved);
        old = *read(a.variance, group, 1, &old);
        moved = static_cast<C>((1 - a.momentum) * old + a.momentum * unbiased);
        keep(a.new_variance, group, 1, &moved);
      }
    }
    vectors[image].repeat(channels, cut.wide);
  };
  if (cut.parts == 1) {  // what is summed is still in the cache when it is scaled
    return shared(pool, tasks, small, [&](int64_t task) {
      sum_piece(task);
      centre(Piece(a, cut, task));
      scale_piece(task);
    });
  }
  shared(pool, tasks, small, sum_piece);
  shared(pool, a.images, small || a.images == 1, [&](int64_t image) { centre(Piece(a, cut, image * cut.parts)); });
  shared(pool, tasks, small, scale_piece);
}

template <class C>
void columns_backward(ffi::ThreadPool& pool, const Columns& a) {
  const Parameter<C> gamma(a.gamma, a.channels), beta(a.beta, a.channels);
  const Cut cut(a);
  const int64_t tasks = a.images * cut.parts * cut.strips, units = a.images * a.groups, channels = a.channels;
  const bool small = a.elements() < kSmall;
  auto vectors = vectors_of<C>(a.images, cut.wide);
  const Parameter<C> mean(a.mean, a.given ? channels : 0), variance(a.variance, a.given ? channels : 0);
  for (int64_t image = 0; image < a.images; ++image) {
    for (int64_t c = 0; c < channels; ++c) {
      Centre<C> centre;
      if (a.given) {
        centre = Centre<C>::of(0, variance[c], a.epsilon);
        centre.high = mean[c];
      } else {
        const C* statistics = static_cast<const C*>(a.statistics.data);
        const int64_t unit = image * a.groups + c / a.each();
        centre.high = statistics[unit];
        centre.low = statistics[units + unit];
        centre.r = statistics[2 * units + unit];
      }
      vectors[image].set(c, centre, gamma[c], beta[c]);
    }
    vectors[image].repeat(channels, cut.wide);
  }
  std::vector<double> sums(a.images * cut.parts * 2 * channels, 0.0);
  const auto sum_piece = [&](int64_t task) {
    const Piece piece(a, cut, task);
    const Vectors<C>& v = vectors[piece.image];
    std::vector<double> folded(cut.fold == 1 ? 0 : 2 * cut.wide, 0.0);
    double* const into = sums.data() + piece.sums;
    double* const wide_sums = cut.fold == 1 ? into : folded.data();
    std::vector<C> pulled;
    const auto add = [&](int64_t start, int64_t count, int64_t wide, int64_t begin, int64_t end) {
      const Array* const arrays[] = {&a.x, &a.dy};
      in_tiles<C>(arrays, start, count, wide, begin, end, [&](const auto* both, int64_t, int64_t rows, int64_t column,
                                                              int64_t columns) {
        alignas(64) C plain[kStrip], weighted[kStrip];
        const C *high = v.high + column, *r = v.r + column;
        const auto add_products = [&](const auto* x, int64_t stride, const auto* dz, int64_t dz_stride) {
          in_strips<C, 4>(columns, [&](auto kind, auto many, int64_t c) {
            add_pulls<many.value, C, decltype(kind)>(x + c, stride, dz + c, dz_stride, rows, high + c, r + c, plain + c,
                                                    weighted + c);
          });
        };
        if (a.activation == kNone) {
          add_products(both[0].data, both[0].stride, both[1].data, both[1].stride);
        } else {
          pulled.resize(rows * columns);
          const C *scale = v.scale + column, *shift = v.shift + column;
          with_activation(a.activation, [&](auto act) {
            for (int64_t row = 0; row < rows; ++row) {
              slope_row<act.value>(pulled.data() + row * columns, both[1].data + row * both[1].stride,
                                   both[0].data + row * both[0].stride, high, scale, shift, columns);
            }
          });
          add_products(both[0].data, both[0].stride, pulled.data(), columns);
        }
        for (int64_t c = 0; c < columns; ++c) {
          wide_sums[column + c] += plain[c];
          wide_sums[cut.wide + column + c] += weighted[c] + static_cast<double>(v.left[column + c]) * plain[c];
        }
      });
    };
    if (cut.fold == 1) return add(piece.start, piece.rows, channels, piece.column, piece.column + piece.columns);
    const int64_t full = piece.rows / cut.fold, rest = piece.rows % cut.fold;
    add(piece.start, full, cut.wide, 0, cut.wide);
    if (rest) add(piece.start + full * cut.wide, 1, rest * channels, 0, rest * channels);
    for (int64_t c = 0; c < cut.wide; ++c) {
      into[c % channels] += wide_sums[c];
      into[channels + c % channels] += wide_sums[cut.wide + c];
    }
  };
  std::vector<double> of_images(a.images * 2 * channels, 0.0);
  // Of the channels of a piece, in all parts of its image.
  const auto means = [&](const Piece& piece) {
    const int64_t image = piece.image, from = piece.column, to = piece.column + piece.columns;
    double* total = of_images.data() + image * 2 * channels;
    for (int64_t part = 0; part < cut.parts; ++part) {
      const double* add = sums.data() + (image * cut.parts + part) * 2 * channels;
      for (int64_t c = from; c < to; ++c) {
        total[c] += add[c];
        total[channels + c] += add[channels + c];
      }
    }
    if (a.given) return;
    const double terms = static_cast<double>(a.rows) * a.each();
    for (int64_t group = from / a.each(); group * a.each() < to; ++group) {
      const int64_t begin = group * a.each(), end = begin + a.each();
      double plain = 0, weighted = 0;
      for (int64_t c = begin; c < end; ++c) {
        plain += gamma[c] * total[c];
        weighted += gamma[c] * total[channels + c];
      }
      for (int64_t c = begin; c < end; ++c) {
        vectors[image].plain[c] = vectors[image].r[c] * static_cast<C>(plain / terms);
        vectors[image].weighted[c] = vectors[image].r[c] * static_cast<C>(weighted / terms);
      }
    }
    vectors[image].repeat(channels, cut.wide);
  };
  const auto pull_piece = [&](int64_t task) {
    alignas(64) C wide[1024];
    alignas(64) C other[1024];
    alignas(64) C sloped[1024];
    alignas(64) C made[1024];
    const Piece piece(a, cut, task);
    const Vectors<C>& v = vectors[piece.image];
    with_activation(a.activation, [&](auto act) {
      in_runs(a, cut, piece, [&](int64_t at, int64_t column, int64_t n) {
        if constexpr (act.value == kNone && sizeof(C) == 4) {
          if (!a.given && in_bfloat16(a.x) && in_bfloat16(a.dy) && in_bfloat16(a.dx)) {
            return pull_row(halves(a.dx) + at, halves(a.dy) + at, halves(a.x) + at, v.high + column, v.scale + column,
                            v.r + column, v.left + column, v.plain + column, v.weighted + column, n);
          }
        }
        const C *x = read(a.x, at, n, wide), *dz = read(a.dy, at, n, other);
        const C *high = v.high + column, *scale = v.scale + column;
        if constexpr (act.value != kNone) {
          slope_row<act.value>(sloped, dz, x, high, scale, v.shift + column, n);
          dz = sloped;
        }
        C* dx = place(a.dx, at, made);
        if (a.given) {  // of which x is no part, infinite or no number as it may be
          for (int64_t i = 0; i < n; ++i) dx[i] = scale[i] * dz[i];
        } else {
          pull_row(dx, dz, x, high, scale, v.r + column, v.left + column, v.plain + column, v.weighted + column, n);
        }
        keep(a.dx, at, n, dx);
      });
    });
  };
  if (cut.parts == 1) {
    shared(pool, tasks, small, [&](int64_t task) {
      sum_piece(task);
      means(Piece(a, cut, task));
      pull_piece(task);
    });
  } else {
    shared(pool, tasks, small, sum_piece);
    shared(pool, a.images, small || a.images == 1, [&](int64_t image) { means(Piece(a, cut, image * cut.parts)); });
    shared(pool, tasks, small, pull_piece);
  }
  for (int64_t image = 1; image < a.images; ++image) {
    for (int64_t c = 0; c < 2 * channels; ++c) of_images[c] += of_images[image * 2 * channels + c];
  }
  std::vector<C> made(2 * channels);
  for (int64_t c = 0; c < 2 * channels; ++c) made[c] = static_cast<C>(of_images[c]);
  keep(a.dbeta, 0, channels, made.data());
  keep(a.dgamma, 0, channels, made.data() + channels);
}

}  // namespace normbench
