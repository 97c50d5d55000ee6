// Work shared by threads of this library's own, which stay awake for a moment after a call.
//
// XLA's pool lets its threads sleep. To wake one takes tens of microseconds, as long as the whole of a small norm.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace normbench {

namespace ffi = xla::ffi;

inline void breathe() {
#if defined(__SSE2__)
  _mm_pause();
#endif
}

inline int current_core() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

// Subnormal numbers are numbers, on every thread alike, whatever the caller has set.
class Gradual {
 public:
#if defined(__SSE2__)
  Gradual() : before_(_mm_getcsr()) { _mm_setcsr(before_ & ~0x8040u); }
  ~Gradual() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#endif
};

// Tasks by their numbers. Each thread begins with a share of its own, the same in each call of as many tasks, whose data
// its own caches may still hold; then it helps with the others' shares.
struct Job {
  static constexpr int64_t kMostThreads = 64;

  struct alignas(64) Share {
    std::atomic<int64_t> next;
    int64_t end;
  };

  void (*run)(const void* work, int64_t task);
  const void* work;
  int64_t threads;
  std::atomic<int64_t> held;  // by helpers that have it, or will find it
  Share shares[kMostThreads];

  Job(void (*run)(const void*, int64_t), const void* work, int64_t tasks, int64_t threads)
      : run(run), work(work), threads(threads), held(threads - 1) {
    for (int64_t i = 0; i < threads; ++i) {
      shares[i].next.store(i * tasks / threads, std::memory_order_relaxed);
      shares[i].end = (i + 1) * tasks / threads;
    }
  }

  void take(int64_t thread) {
    Gradual gradual;
    for (int64_t i = 0; i < threads; ++i) {
      Share& share = shares[(thread + i) % threads];
      for (int64_t task; (task = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;) run(work, task);
    }
  }
};

// One thread. It looks out for the next job as long as it would take to wake it, and then sleeps.
class Helper {
 public:
  explicit Helper(int64_t number) : number_(number), thread_([this] { live(); }) {}

  void hand(Job* job) {
    job_.store(job);
    if (!asleep_.load()) return;
    keep_off(current_core());
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_one();
  }

  // Whether the helper has not come for the job, and never will.
  bool take_back(Job* job) { return job_.compare_exchange_strong(job, nullptr); }

 private:
  static constexpr auto kAwake = std::chrono::microseconds(100);

  // Forbids the thread the core that its caller is on: else it did not come for whole bursts of calls on a virtual
  // machine, though a core was idle. Linux is taken to have woken it beside its caller, where it waited.
  void keep_off(int core) {
#if defined(__linux__)
    if (core == kept_off_) return;
    cpu_set_t cores;
    if (pthread_getaffinity_np(pthread_self(), sizeof(cores), &cores) != 0) return;
    CPU_CLR(core, &cores);
    if (CPU_COUNT(&cores) > 0) pthread_setaffinity_np(thread_.native_handle(), sizeof(cores), &cores);
#endif
    kept_off_ = core;
  }

  void live() {
    for (;;) {
      if (Job* job = look_out()) {
        job->take(number_);
        job->held.fetch_sub(1, std::memory_order_release);
      } else {
        sleep();
      }
    }
  }

  Job* look_out() {
    const auto end = std::chrono::steady_clock::now() + kAwake;
    do {
      for (int spin = 0; spin < 32; ++spin) {
        if (job_.load(std::memory_order_relaxed)) {
          if (Job* job = job_.exchange(nullptr)) return job;
        }
        breathe();
      }
      std::this_thread::yield();  // to whoever else wants the core
    } while (std::chrono::steady_clock::now() < end);
    return nullptr;
  }

  void sleep() {
    std::unique_lock<std::mutex> lock(mutex_);
    asleep_.store(true);
    if (!job_.load()) wake_.wait(lock);
    asleep_.store(false);
  }

  const int64_t number_;  // of the thread, of which the caller is 0
  int kept_off_ = -1;     // the core
  alignas(64) std::atomic<Job*> job_{nullptr};
  std::atomic<bool> asleep_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::thread thread_;  // the last, as it uses the others
};

// The helpers of this process. They are never destroyed: they may run while the process ends.
class Crew {
 public:
  static Crew& own() {
    static const bool forked = pthread_atfork(nullptr, nullptr, [] { instance() = new Crew; }) == 0;  // has no threads
    (void)forked;
    return *instance();
  }

  // Whether the helpers are this call's until `leave`; another may have them.
  bool enter() { return !taken_.test_and_set(std::memory_order_acquire); }
  void leave() { taken_.clear(std::memory_order_release); }

  // Runs the job on this thread and its other ones.
  void run(Job& job) {
    const int64_t helpers = job.threads - 1;
    while (static_cast<int64_t>(helpers_.size()) < helpers) {
      helpers_.push_back(std::make_unique<Helper>(helpers_.size() + 1));
    }
    for (int64_t i = 0; i < helpers; ++i) helpers_[i]->hand(&job);
    job.take(0);
    for (int64_t i = 0; i < helpers; ++i) {
      if (helpers_[i]->take_back(&job)) job.held.fetch_sub(1);
    }
    for (int64_t spins = 0; job.held.load(std::memory_order_acquire) > 0; ++spins) {
      spins < 4096 ? breathe() : std::this_thread::yield();
    }
  }

 private:
  static Crew*& instance() {
    static Crew* crew = new Crew;
    return crew;
  }

  std::vector<std::unique_ptr<Helper>> helpers_;
  std::atomic_flag taken_ = ATOMIC_FLAG_INIT;
};

// Calls work(task) for every task, on the caller's thread and on as many others as XLA may use, or on it alone while
// another call has these. What a task computes depends on its number alone, so that the result does not depend on the
// threads.
template <class Work>
void shared(ffi::ThreadPool& pool, int64_t tasks, bool small, const Work& work) {
  const int64_t threads = small ? 1 : std::min({pool.num_threads(), tasks, Job::kMostThreads});
  Crew& crew = Crew::own();
  if (threads < 2 || !crew.enter()) {
    Gradual gradual;
    for (int64_t task = 0; task < tasks; ++task) work(task);
    return;
  }
  Job job([](const void* all, int64_t task) { (*static_cast<const Work*>(all))(task); }, &work, tasks, threads);
  crew.run(job);
  crew.leave();
}

}  // namespace normbench
