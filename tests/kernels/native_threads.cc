// Jobs of every size on the crew: each task is done once, by whichever thread, and nothing is left of a job that ended.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "threads.h"

namespace {

using normbench::Crew;
using normbench::Job;

void run_one(int64_t tasks, int64_t threads, bool must_enter) {
  std::vector<int> times(tasks, 0);
  struct Work {
    std::vector<int>& times;
  } work{times};
  Job job([](const void* all, int64_t task) { ++static_cast<const Work*>(all)->times[task]; }, &work, tasks, threads);
  Crew& crew = Crew::own();
  if (crew.enter()) {
    crew.run(job);
    crew.leave();
  } else if (must_enter) {
    std::puts("taken by nobody");
    std::exit(1);
  } else {
    return;
  }
  for (int64_t task = 0; task < tasks; ++task) {
    if (times[task] != 1) {
      std::printf("task %ld of %ld on %ld threads: done %d times\n", long(task), long(tasks), long(threads), times[task]);
      std::exit(1);
    }
  }
}

void run_many(int rounds, bool alone) {
  for (int round = 0; round < rounds; ++round) {
    run_one(1 + round % 37, 1 + round % 5, alone);
    if (round % 50 == 0) usleep(300);  // longer than a helper looks out
  }
}

}  // namespace

int main() {
  run_many(2000, true);
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) callers.emplace_back([] { run_many(500, false); });
  for (auto& caller : callers) caller.join();
  const pid_t child = fork();
  if (child == 0) {
    run_many(200, true);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return 2;
  run_many(200, true);
  std::puts("right");
}
