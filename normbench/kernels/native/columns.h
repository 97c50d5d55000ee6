// Norms whose channels are the last axis: batch, group and instance norm, channels last.
#pragma once

#include "activations.h"
#include "arrays.h"
#include "lanes.h"

namespace normbench {

struct Columns {
  int64_t images, rows, channels, groups;  // x is (images, rows, channels); batch norm has one image, a group a channel
  int64_t given, activation;
  double epsilon, momentum;
  Array x, gamma, beta, mean, variance;
  Array y, statistics, new_mean, new_variance;  // statistics: high, low, r of each image and group
  Array dy, dx, dgamma, dbeta;

  int64_t each() const { return channels / groups; }
  int64_t elements() const { return images * rows * channels; }
};

inline constexpr int64_t kStrip = 128;  // columns that are added at once, their sums in registers
inline constexpr int64_t kRowsAdded = 64;  // in the type of the computation, before float64
inline constexpr int64_t kRowsWorth = 32;  // of a part at least: its sums are float64, and added up by one thread

// How x is cut: rows of few channels are taken several at once, as one wider row.
struct Cut {
  int64_t fold, wide, parts, rows;  // rows of a part, a multiple of `fold`

  explicit Cut(const Columns& a) {
    fold = std::max<int64_t>(1, std::min(kStrip / a.channels, a.rows));
    wide = fold * a.channels;
    const int64_t most = std::max<int64_t>(1, 32 / a.images);
    parts = std::max<int64_t>(1, std::min({most, a.rows * a.channels / 16384, a.rows / kRowsWorth}));
    rows = ceil_of(ceil_of(a.rows, parts), fold) * fold;
    parts = ceil_of(a.rows, rows);
  }
};

// Moments of columns: a count that they share, means and squared deviations.
struct ColumnMoments {
  double count = 0;
  double *mean, *squares;

  void add(double n, const double* other_mean, const double* other_squares, int64_t columns) {
    const double all = count + n, share = n / all, both = count * share;
    for (int64_t c = 0; c < columns; ++c) {
      const double difference = other_mean[c] - mean[c];
      mean[c] += difference * share;
      squares[c] += other_squares[c] + difference * difference * both;
    }
    count = all;
  }
};

template <int N>
using Count = std::integral_constant<int, N>;

// Calls strip(kind, Count<N>, column) for N vectors of columns, at most `Most`, and for those that fill none.
template <class C, int Most, class Strip>
inline void in_strips(int64_t columns, const Strip& strip) {
  using V = typename Lanes<C>::V;
  constexpr int64_t width = Lanes<C>::kWidth;
  int64_t c = 0;
  for (; c + Most * width <= columns; c += Most * width) strip(V{}, Count<Most>{}, c);
  if constexpr (Most > 1) {
    for (; c + 2 * width <= columns; c += 2 * width) strip(V{}, Count<2>{}, c);
  }
  for (; c + width <= columns; c += width) strip(V{}, Count<1>{}, c);
  for (; c < columns; ++c) strip(C{}, Count<1>{}, c);
}

// What lies near the means of columns: the means of eight rows, exact where they are equal.
template <class K, class C, class Stored>
inline K near_means(const Stored* x, int64_t stride, int64_t rows) {
  if (rows < 8) return load<K>(x);
  const C eighth = C(1) / 8;
  const auto row = [&](int64_t r) { return load<K>(x + r * stride) * eighth; };
  return ((row(0) + row(1)) + (row(2) + row(3))) + ((row(4) + row(5)) + (row(6) + row(7)));
}

// The sums of the deviations of some columns from their pivots, and of their squares.
template <int N, class C, class K, class Stored>
inline void add_deviations(const Stored* x, int64_t stride, int64_t rows, const C* pivot, C* shifted, C* squared) {
  constexpr int64_t width = sizeof(K) / sizeof(C);
  K near[N], first[N] = {}, second[N] = {};
  for (int i = 0; i < N; ++i) near[i] = load<K>(pivot + i * width);
  for (int64_t r = 0; r < rows; ++r) {
    for (int i = 0; i < N; ++i) {
      const K difference = load<K>(x + r * stride + i * width) - near[i];
      first[i] += difference;
      second[i] += difference * difference;
    }
  }
  for (int i = 0; i < N; ++i) {
    store(shifted + i * width, first[i]);
    store(squared + i * width, second[i]);
  }
}

// As for a block: again around the means where a pivot was far from one.
template <class C, class Stored>
void add_tile(ColumnMoments& all, const Stored* x, int64_t stride, int64_t rows, int64_t columns) {
  alignas(64) C pivot[kStrip], shifted[kStrip], squared[kStrip];
  double mean[kStrip], squares[kStrip];
  in_strips<C, 1>(columns, [&](auto kind, auto, int64_t c) {
    using K = decltype(kind);
    store(pivot + c, near_means<K, C>(x + c, stride, rows));
  });
  for (bool again = false;; again = true) {
    in_strips<C, 8>(columns, [&](auto kind, auto many, int64_t c) {
      add_deviations<many.value, C, decltype(kind)>(x + c, stride, rows, pivot + c, shifted + c, squared + c);
    });
    int64_t far = 0;
    for (int64_t c = 0; c < columns; ++c) {
      const double left = static_cast<double>(shifted[c]) / rows, found = squared[c] - left * left * rows;
      far += !(left * left * rows <= kTrusted * found);
      mean[c] = pivot[c] + left;
      squares[c] = found < 0 ? 0 : found;
    }
    if (again || far == 0) break;
    for (int64_t c = 0; c < columns; ++c) pivot[c] = static_cast<C>(mean[c]);
  }
  all.add(rows, mean, squares, columns);
}

// Rows of some columns, as they lie there or widened: where the first one is, and how far it is to the next.
template <class Stored>
struct Tile {
  const Stored* data;
  int64_t stride;
};

// Calls tile(tiles, row, rows, column, columns) over the rows of a part as rows of `wide` elements, in memory order;
// there is a tile of each array: all as they lie there, of the type that is computed in or of bfloat16, or each widened
// into scratch of its own where it has to be.
template <class C, size_t N, class Run>
void in_tiles(const Array* const (&arrays)[N], int64_t from, int64_t rows, int64_t wide, const Run& tile) {
  constexpr int64_t most = kRowsAdded * kStrip;
  static thread_local std::vector<C> scratch;
  bool halves = sizeof(C) == 4;
  for (const Array* array : arrays) halves = halves && array->type == ffi::BF16;
  if (!halves) scratch.resize(N * most);
  for (int64_t row = 0; row < rows; row += kRowsAdded) {
    const int64_t count = std::min(kRowsAdded, rows - row);
    for (int64_t column = 0; column < wide; column += kStrip) {
      const int64_t columns = std::min(kStrip, wide - column), at = from + row * wide + column;
      if constexpr (sizeof(C) == 4) {
        if (halves) {
          Tile<uint16_t> tiles[N];
          for (size_t i = 0; i < N; ++i) tiles[i] = {static_cast<const uint16_t*>(arrays[i]->data) + at, wide};
          tile(tiles, row, count, column, columns);
          continue;
        }
      }
      Tile<C> tiles[N];
      for (size_t i = 0; i < N; ++i) {
        C* into = scratch.data() + i * most;
        if (arrays[i]->type == kType<C>) {
          tiles[i] = {read(*arrays[i], at, 0, into), wide};
        } else {
          for (int64_t r = 0; r < count; ++r) read(*arrays[i], at + r * wide, columns, into + r * columns);
          tiles[i] = {into, columns};
        }
      }
      tile(tiles, row, count, column, columns);
    }
  }
}

// The moments of the columns of one part, into `mean` and `squares` of one value per channel.
template <class C>
void moments_of_part(const Columns& a, const Cut& cut, int64_t from, int64_t rows, double* mean, double* squares) {
  const int64_t full = rows / cut.fold, rest = rows % cut.fold;
  std::vector<double> sums(2 * cut.wide, 0.0);
  const auto add = [&](int64_t start, int64_t count, int64_t wide, double before) {
    const Array* const arrays[] = {&a.x};
    in_tiles<C>(arrays, start, count, wide,
                [&](const auto* x, int64_t row, int64_t n, int64_t column, int64_t columns) {
                  ColumnMoments moments{before + row, sums.data() + column, sums.data() + cut.wide + column};
                  add_tile<C>(moments, x->data, x->stride, n, columns);
                });
  };
  add(from, full, cut.wide, 0);
  if (rest) add(from + full * cut.wide, 1, rest * a.channels, full);
  ColumnMoments all{0, mean, squares};
  for (int64_t copy = 0; copy < cut.fold; ++copy) {
    const double n = full + (copy < rest ? 1 : 0);
    const double* part = sums.data() + copy * a.channels;
    if (n > 0) all.add(n, part, part + cut.wide, a.channels);
  }
}

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

// Calls run(offset, first column, count) over a part, in memory order.
template <class Run>
inline void in_runs(int64_t from, int64_t elements, int64_t wide, const Run& run) {
  constexpr int64_t most = 1024;
  for (int64_t start = 0; start < elements; start += wide) {
    const int64_t length = std::min(wide, elements - start);
    for (int64_t c = 0; c < length; c += most) run(from + start + c, c, std::min(most, length - c));
  }
}

template <class C>
void columns_forward(ffi::ThreadPool& pool, const Columns& a) {
  const Parameter<C> gamma(a.gamma, a.channels), beta(a.beta, a.channels);
  const Cut cut(a);
  const int64_t tasks = a.images * cut.parts, units = a.images * a.groups, channels = a.channels;
  const bool small = a.elements() < kSmall;
  const auto rows_of = [&](int64_t task) { return std::min(cut.rows, a.rows - task % cut.parts * cut.rows); };
  const auto start_of = [&](int64_t task) {
    return (task / cut.parts * a.rows + task % cut.parts * cut.rows) * channels;
  };
  auto vectors = vectors_of<C>(a.images, cut.wide);
  const auto scale_part = [&](int64_t task) {
    alignas(64) C wide[1024];
    alignas(64) C made[1024];
    const Vectors<C>& v = vectors[task / cut.parts];
    with_activation(a.activation, [&](auto act) {
      in_runs(start_of(task), rows_of(task) * channels, cut.wide, [&](int64_t at, int64_t column, int64_t n) {
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
    return shared(pool, tasks, small, scale_part);
  }
  std::vector<double> sums(tasks * 2 * channels, 0.0);
  const auto sum_part = [&](int64_t task) {
    double* into = sums.data() + task * 2 * channels;
    moments_of_part<C>(a, cut, start_of(task), rows_of(task), into, into + channels);
  };
  const auto centre_of_image = [&](int64_t image) {
    double* first = sums.data() + image * cut.parts * 2 * channels;
    ColumnMoments all{static_cast<double>(rows_of(0)), first, first + channels};
    for (int64_t part = 1; part < cut.parts; ++part) {
      const double* other = first + part * 2 * channels;
      all.add(static_cast<double>(rows_of(part)), other, other + channels, channels);
    }
    C* statistics = static_cast<C*>(a.statistics.data);
    for (int64_t group = 0; group < a.groups; ++group) {
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
  if (cut.parts == 1) {  // an image is still in the cache when it is scaled
    return shared(pool, tasks, small, [&](int64_t task) {
      sum_part(task);
      centre_of_image(task);
      scale_part(task);
    });
  }
  shared(pool, tasks, small, sum_part);
  shared(pool, a.images, small || a.images == 1, centre_of_image);
  shared(pool, tasks, small, scale_part);
}

template <class C>
void columns_backward(ffi::ThreadPool& pool, const Columns& a) {
  const Parameter<C> gamma(a.gamma, a.channels), beta(a.beta, a.channels);
  const Cut cut(a);
  const int64_t tasks = a.images * cut.parts, units = a.images * a.groups, channels = a.channels;
  const bool small = a.elements() < kSmall;
  const auto rows_of = [&](int64_t task) { return std::min(cut.rows, a.rows - task % cut.parts * cut.rows); };
  const auto start_of = [&](int64_t task) {
    return (task / cut.parts * a.rows + task % cut.parts * cut.rows) * channels;
  };
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
  std::vector<double> sums(tasks * 2 * channels, 0.0);
  const auto sum_part = [&](int64_t task) {
    const Vectors<C>& v = vectors[task / cut.parts];
    std::vector<double> wide_sums(2 * cut.wide, 0.0);
    std::vector<C> pulled;
    const auto add = [&](int64_t start, int64_t count, int64_t wide) {
      const Array* const arrays[] = {&a.x, &a.dy};
      in_tiles<C>(arrays, start, count, wide, [&](const auto* both, int64_t, int64_t rows, int64_t column,
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
    const int64_t full = rows_of(task) / cut.fold, rest = rows_of(task) % cut.fold;
    add(start_of(task), full, cut.wide);
    if (rest) add(start_of(task) + full * cut.wide, 1, rest * channels);
    double* into = sums.data() + task * 2 * channels;
    for (int64_t c = 0; c < cut.wide; ++c) {
      into[c % channels] += wide_sums[c];
      into[channels + c % channels] += wide_sums[cut.wide + c];
    }
  };
  std::vector<double> of_images(a.images * 2 * channels, 0.0);
  const auto means_of_image = [&](int64_t image) {
    double* total = of_images.data() + image * 2 * channels;
    for (int64_t part = 0; part < cut.parts; ++part) {
      const double* add = sums.data() + (image * cut.parts + part) * 2 * channels;
      for (int64_t c = 0; c < 2 * channels; ++c) total[c] += add[c];
    }
    if (a.given) return;
    const double terms = static_cast<double>(a.rows) * a.each();
    for (int64_t group = 0; group < a.groups; ++group) {
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
  const auto pull_part = [&](int64_t task) {
    alignas(64) C wide[1024];
    alignas(64) C other[1024];
    alignas(64) C sloped[1024];
    alignas(64) C made[1024];
    const Vectors<C>& v = vectors[task / cut.parts];
    with_activation(a.activation, [&](auto act) {
      in_runs(start_of(task), rows_of(task) * channels, cut.wide, [&](int64_t at, int64_t column, int64_t n) {
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
      sum_part(task);
      means_of_image(task);
      pull_part(task);
    });
  } else {
    shared(pool, tasks, small, sum_part);
    shared(pool, a.images, small || a.images == 1, means_of_image);
    shared(pool, tasks, small, pull_part);
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
