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

inline constexpr int64_t kStrip = 256;  // columns that are added at once

// How x is cut: rows of few channels are taken several at once, as one wider row.
struct Cut {
  int64_t fold, wide, parts, rows;  // rows of a part, a multiple of `fold`

  explicit Cut(const Columns& a) {
    fold = std::max<int64_t>(1, std::min(kStrip / a.channels, a.rows));
    wide = fold * a.channels;
    const int64_t most = std::max<int64_t>(1, 32 / a.images);
    parts = std::max<int64_t>(1, std::min(most, a.rows * a.channels / 16384));
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

// Calls column(kind, column) for vectors of columns, and for those that fill none.
template <class C, class Column>
inline void in_columns(int64_t columns, const Column& column) {
  int64_t c = 0;
  for (; c + Lanes<C>::kWidth <= columns; c += Lanes<C>::kWidth) column(typename Lanes<C>::V{}, c);
  for (; c < columns; ++c) column(C{}, c);
}

// Calls add(row, lane), four rows after one another in lanes of their own.
template <class Add>
inline void by_fours(int64_t rows, const Add& add) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    add(r, 0);
    add(r + 1, 1);
    add(r + 2, 2);
    add(r + 3, 3);
  }
  for (; r < rows; ++r) add(r, 0);
}

template <class K>
inline K sum_of_four(const K* lanes) {
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

template <class C, class K>
inline void store(C* to, K value) {
  std::memcpy(to, &value, sizeof(K));
}

template <class C>
void add_tile(ColumnMoments& all, const C* x, int64_t stride, int64_t rows, int64_t columns) {
  alignas(64) C near[kStrip], left[kStrip], squared[kStrip];
  const C share = C(1) / static_cast<C>(rows);
  in_columns<C>(columns, [&](auto kind, int64_t c) {
    using K = decltype(kind);
    const C* const column = x + c;
    const K pivot = load<K>(column);
    K shifted[4] = {}, centred[4] = {}, square[4] = {};
    by_fours(rows, [&](int64_t r, int lane) { shifted[lane] += load<K>(column + r * stride) - pivot; });
    const K middle = pivot + sum_of_four(shifted) * share;
    by_fours(rows, [&](int64_t r, int lane) {
      const K difference = load<K>(column + r * stride) - middle;
      centred[lane] += difference;
      square[lane] += difference * difference;
    });
    store(near + c, middle);
    store(left + c, sum_of_four(centred));
    store(squared + c, sum_of_four(square));
  });
  double mean[kStrip], squares[kStrip];
  for (int64_t c = 0; c < columns; ++c) {
    const double rest = static_cast<double>(left[c]) / rows, found = squared[c] - rest * rest * rows;
    mean[c] = near[c] + rest;
    squares[c] = found < 0 ? 0 : found;
  }
  all.add(rows, mean, squares, columns);
}

// Rows of some columns: where the first one lies, and how far it is to the next.
template <class C>
struct Tile {
  const C* data;
  int64_t stride;
};

// Calls tile(tiles, row, rows, column, columns) over the rows of a part as rows of `wide` elements; there is a tile of
// each array, widened into scratch of its own where it has to be.
template <class C, size_t N, class Run>
void in_tiles(const Array* const (&arrays)[N], int64_t from, int64_t rows, int64_t wide, const Run& tile) {
  constexpr int64_t most = 32768 / sizeof(C);
  static thread_local std::vector<C> scratch;
  scratch.resize(N * most);
  const int64_t strip = std::min(kStrip, wide), at_once = std::min<int64_t>(128, most / strip);
  for (int64_t column = 0; column < wide; column += strip) {
    const int64_t columns = std::min(strip, wide - column);
    for (int64_t row = 0; row < rows; row += at_once) {
      const int64_t count = std::min(at_once, rows - row);
      Tile<C> tiles[N];
      for (size_t i = 0; i < N; ++i) {
        C* into = scratch.data() + i * most;
        const int64_t at = from + row * wide + column;
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
                [&](const Tile<C>* x, int64_t row, int64_t n, int64_t column, int64_t columns) {
                  ColumnMoments moments{before + row, sums.data() + column, sums.data() + cut.wide + column};
                  add_tile(moments, x->data, x->stride, n, columns);
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

// Loops with nothing beside them, which a compiler makes vectors of.
template <int A, class C>
__attribute__((noinline)) void slope_row(C* __restrict dz, const C* __restrict dy, const C* __restrict x,
                                         const C* __restrict high, const C* __restrict scale, const C* __restrict shift,
                                         int64_t n) {
  for (int64_t i = 0; i < n; ++i) dz[i] = dy[i] * slope<A>((x[i] - high[i]) * scale[i] + shift[i]);
}

template <class C>
__attribute__((noinline)) void pull_row(C* __restrict dx, const C* __restrict dz, const C* __restrict x,
                                        const C* __restrict high, const C* __restrict scale, const C* __restrict r,
                                        const C* __restrict left, const C* __restrict plain,
                                        const C* __restrict weighted, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    dx[i] = scale[i] * dz[i] - plain[i] - ((x[i] - high[i]) * r[i] + left[i]) * weighted[i];
  }
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
        C* y = place(a.y, at, made);
        scale_row<act.value>(y, read(a.x, at, n, wide), v.high + column, v.scale + column, v.shift + column, n);
        keep(a.y, at, n, y);
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
      in_tiles<C>(arrays, start, count, wide, [&](const Tile<C>* both, int64_t, int64_t rows, int64_t column,
                                                  int64_t columns) {
        const C *x = both[0].data, *dz = both[1].data;
        const int64_t stride = both[0].stride;
        int64_t dz_stride = both[1].stride;
        const C *high = v.high + column, *r = v.r + column, *left = v.left + column;
        if (a.activation != kNone) {
          pulled.resize(rows * columns);
          const C *scale = v.scale + column, *shift = v.shift + column;
          with_activation(a.activation, [&](auto act) {
            for (int64_t row = 0; row < rows; ++row) {
              const C* dy = both[1].data + row * both[1].stride;
              slope_row<act.value>(pulled.data() + row * columns, dy, x + row * stride, high, scale, shift, columns);
            }
          });
          dz = pulled.data();
          dz_stride = columns;
        }
        alignas(64) C plain[kStrip], weighted[kStrip];
        in_columns<C>(columns, [&](auto kind, int64_t c) {
          using K = decltype(kind);
          const C *const xs = x + c, *const ds = dz + c;
          const K middle = load<K>(high + c), factor = load<K>(r + c), rest = load<K>(left + c);
          K first[4] = {}, second[4] = {};
          by_fours(rows, [&](int64_t row, int lane) {
            const K d = load<K>(ds + row * dz_stride);
            first[lane] += d;
            second[lane] += d * ((load<K>(xs + row * stride) - middle) * factor + rest);
          });
          store(plain + c, sum_of_four(first));
          store(weighted + c, sum_of_four(second));
        });
        for (int64_t c = 0; c < columns; ++c) {
          wide_sums[column + c] += plain[c];
          wide_sums[cut.wide + column + c] += weighted[c];
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
