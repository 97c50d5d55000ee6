// How x is cut where the channels are its last axis: into parts, strips and tiles; and the moments of columns.
#pragma once

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

inline constexpr int64_t kHeldBytes = 262144;  // of a strip of columns, which the second cache holds until it is scaled
inline constexpr int64_t kStripsWorth = 8;     // of all images at least: else a thread would have none

// How x is cut: into parts of whole rows, or into strips of columns, which are read from memory once.
// Rows of few channels are taken several at once, as one wider row.
struct Cut {
  int64_t fold, wide, parts, rows;  // rows of a part, a multiple of `fold`
  int64_t strips, columns;          // columns of a strip

  explicit Cut(const Columns& a) {
    fold = std::max<int64_t>(1, std::min(kStrip / a.channels, a.rows));
    wide = fold * a.channels;
    const int64_t most = std::max<int64_t>(1, 32 / a.images);
    parts = std::max<int64_t>(1, std::min({most, a.rows * a.channels / 16384, a.rows / kRowsWorth}));
    strips = 1;
    columns = a.channels;
    if (parts > 1 && !a.given && a.each() == 1 && a.images * (a.channels / kStrip) >= kStripsWorth &&
        a.rows * kStrip * bytes_of(a.x.type) <= kHeldBytes) {
      parts = 1;
      strips = ceil_of(a.channels, kStrip);
      columns = kStrip;
    }
    rows = ceil_of(ceil_of(a.rows, parts), fold) * fold;
    parts = ceil_of(a.rows, rows);
  }
};

// What one task takes: rows of one image, or some of their columns.
struct Piece {
  int64_t image, start, rows;  // start: its first row's first element, of whatever column
  int64_t column, columns;
  int64_t sums;  // where its sums lie, those of all columns

  Piece(const Columns& a, const Cut& cut, int64_t task) {
    const int64_t part = task / cut.strips % cut.parts;
    image = task / cut.strips / cut.parts;
    start = (image * a.rows + part * cut.rows) * a.channels;
    rows = std::min(cut.rows, a.rows - part * cut.rows);
    column = task % cut.strips * cut.columns;
    columns = std::min(cut.columns, a.channels - column);
    sums = (image * cut.parts + part) * 2 * a.channels;
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

// Calls tile(tiles, row, rows, column, columns) over rows of `wide` elements, columns [begin, end) of them, in memory
// order; there is a tile of each array: all as they lie there, of the type that is computed in or of bfloat16, or each widened
// into scratch of its own where it has to be.
template <class C, size_t N, class Run>
void in_tiles(const Array* const (&arrays)[N], int64_t from, int64_t rows, int64_t wide, int64_t begin, int64_t end,
              const Run& tile) {
  constexpr int64_t most = kRowsAdded * kStrip;
  static thread_local std::vector<C> scratch;
  bool halves = sizeof(C) == 4;
  for (const Array* array : arrays) halves = halves && array->type == ffi::BF16;
  if (!halves) scratch.resize(N * most);
  for (int64_t row = 0; row < rows; row += kRowsAdded) {
    const int64_t count = std::min(kRowsAdded, rows - row);
    for (int64_t column = begin; column < end; column += kStrip) {
      const int64_t columns = std::min(kStrip, end - column), at = from + row * wide + column;
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

// The moments of the columns of one piece, into `mean` and `squares` of one value per channel.
template <class C>
void moments_of_piece(const Columns& a, const Cut& cut, const Piece& piece, double* mean, double* squares) {
  const Array* const arrays[] = {&a.x};
  if (cut.fold == 1) {
    return in_tiles<C>(arrays, piece.start, piece.rows, a.channels, piece.column, piece.column + piece.columns,
                       [&](const auto* x, int64_t row, int64_t n, int64_t column, int64_t columns) {
                         ColumnMoments moments{static_cast<double>(row), mean + column, squares + column};
                         add_tile<C>(moments, x->data, x->stride, n, columns);
                       });
  }
  const int64_t full = piece.rows / cut.fold, rest = piece.rows % cut.fold;
  std::vector<double> sums(2 * cut.wide, 0.0);
  const auto add = [&](int64_t start, int64_t count, int64_t wide, double before) {
    in_tiles<C>(arrays, start, count, wide, 0, wide,
                [&](const auto* x, int64_t row, int64_t n, int64_t column, int64_t columns) {
                  ColumnMoments moments{before + row, sums.data() + column, sums.data() + cut.wide + column};
                  add_tile<C>(moments, x->data, x->stride, n, columns);
                });
  };
  add(piece.start, full, cut.wide, 0);
  if (rest) add(piece.start + full * cut.wide, 1, rest * a.channels, full);
  ColumnMoments all{0, mean, squares};
  for (int64_t copy = 0; copy < cut.fold; ++copy) {
    const double n = full + (copy < rest ? 1 : 0);
    const double* part = sums.data() + copy * a.channels;
    if (n > 0) all.add(n, part, part + cut.wide, a.channels);
  }
}

// Calls run(offset, first column, count) over a piece, in memory order.
template <class Run>
inline void in_runs(const Columns& a, const Cut& cut, const Piece& piece, const Run& run) {
  constexpr int64_t most = 1024;
  const bool whole = piece.columns == a.channels;
  const int64_t end = piece.start + piece.rows * a.channels, step = whole ? cut.wide : a.channels;
  for (int64_t row = piece.start; row < end; row += step) {
    const int64_t length = whole ? std::min(step, end - row) : piece.columns;
    for (int64_t c = 0; c < length; c += most) {
      run(row + piece.column + c, piece.column + c, std::min(most, length - c));
    }
  }
}

}  // namespace normbench
