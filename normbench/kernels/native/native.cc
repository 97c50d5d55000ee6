// The handlers that XLA calls. Each takes the sizes as whole numbers, the settings as float64, arrays in their order.
#include <tuple>
#include <utility>

#include "columns.h"
#include "rows.h"
#include "segments.h"
#include "windows.h"

namespace normbench {
namespace {

// The arrays of a call, one after another.
class Arrays {
 public:
  Arrays(const ffi::RemainingArgs& args, const ffi::RemainingRets& rets) : args_(args), rets_(rets) {}

  Array in() {
    const auto buffer = args_.get<ffi::AnyBuffer>(next_in_++);
    return {buffer->untyped_data(), buffer->element_type()};
  }
  Array out() {
    auto buffer = rets_.get<ffi::AnyBuffer>(next_out_++);
    return {buffer.value()->untyped_data(), buffer.value()->element_type()};
  }

 private:
  const ffi::RemainingArgs& args_;
  const ffi::RemainingRets& rets_;
  size_t next_in_ = 0, next_out_ = 0;
};

using Numbers = ffi::Span<const int64_t>;
using Settings = ffi::Span<const double>;

ffi::Error rows_call(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, Numbers n, Settings s) {
  Arrays arrays(args, rets);
  Rows a{n[1], n[2], n[3], n[4], n[5], s[0]};
  const bool residual = n[6], has_beta = n[7], wide = n[8];
  a.x = arrays.in();
  if (n[0] == 0) {
    if (residual) a.residual = arrays.in();
    a.gamma = arrays.in();
    if (has_beta) a.beta = arrays.in();
    a.y = arrays.out();
    if (residual) a.z = arrays.out();
    if (rets.size() > size_t(residual ? 2 : 1)) a.statistics = arrays.out();
    wide ? rows_forward<double>(pool, a) : rows_forward<float>(pool, a);
    return ffi::Error::Success();
  }
  a.gamma = arrays.in();
  if (has_beta) a.beta = arrays.in();
  a.statistics = arrays.in();
  a.dy = arrays.in();
  if (residual) a.dz = arrays.in();
  a.dx = arrays.out();
  a.dgamma = arrays.out();
  if (has_beta) a.dbeta = arrays.out();
  wide ? rows_backward<double>(pool, a) : rows_backward<float>(pool, a);
  return ffi::Error::Success();
}

// x, gamma, beta, then what statistics are given, kept or moved; both layouts have it alike.
template <class A>
void take(A& a, Arrays& arrays, bool backward, bool moves) {
  a.x = arrays.in();
  a.gamma = arrays.in();
  a.beta = arrays.in();
  if (a.given || moves) {
    a.mean = arrays.in();
    a.variance = arrays.in();
  }
  if (backward) {
    if (!a.given) a.statistics = arrays.in();
    a.dy = arrays.in();
    a.dx = arrays.out();
    a.dgamma = arrays.out();
    a.dbeta = arrays.out();
    return;
  }
  a.y = arrays.out();
  if (!a.given) a.statistics = arrays.out();
  if (moves) {
    a.new_mean = arrays.out();
    a.new_variance = arrays.out();
  }
}

ffi::Error segments_call(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, Numbers n,
                         Settings s) {
  Arrays arrays(args, rets);
  Segments a{n[1], n[2], n[3], n[4], n[5], n[6], s[0], s[1]};
  const bool wide = n[8];
  take(a, arrays, n[0], n[7]);
  if (n[0]) {
    wide ? segments_backward<double>(pool, a) : segments_backward<float>(pool, a);
  } else {
    wide ? segments_forward<double>(pool, a) : segments_forward<float>(pool, a);
  }
  return ffi::Error::Success();
}

ffi::Error columns_call(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, Numbers n, Settings s) {
  Arrays arrays(args, rets);
  Columns a{n[1], n[2], n[3], n[4], n[5], n[6], s[0], s[1]};
  const bool wide = n[8];
  take(a, arrays, n[0], n[7]);
  if (n[0]) {
    wide ? columns_backward<double>(pool, a) : columns_backward<float>(pool, a);
  } else {
    wide ? columns_forward<double>(pool, a) : columns_forward<float>(pool, a);
  }
  return ffi::Error::Success();
}

ffi::Error windows_call(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, Numbers n, Settings s) {
  Arrays arrays(args, rets);
  Windows a{n[1], n[2], n[3], n[4], s[0], s[1], s[2]};
  const bool wide = n[5];
  a.x = arrays.in();
  if (n[0]) {
    a.dy = arrays.in();
    a.dx = arrays.out();
  } else {
    a.y = arrays.out();
  }
  wide ? windows<double>(pool, a) : windows<float>(pool, a);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace normbench

#define NORMBENCH_HANDLER(name, function)                        \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, normbench::function,       \
                                xla::ffi::Ffi::Bind()            \
                                    .Ctx<xla::ffi::ThreadPool>() \
                                    .RemainingArgs()             \
                                    .RemainingRets()             \
                                    .Attr<normbench::Numbers>("numbers") \
                                    .Attr<normbench::Settings>("settings"))

NORMBENCH_HANDLER(normbench_rows, rows_call);
NORMBENCH_HANDLER(normbench_segments, segments_call);
NORMBENCH_HANDLER(normbench_columns, columns_call);
NORMBENCH_HANDLER(normbench_windows, windows_call);
