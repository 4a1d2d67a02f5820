// Work cut into pieces that run on XLA's own threads; no thread is made, none spins.
#pragma once

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "plan.h"
#include "xla/ffi/api/ffi.h"

namespace jaxcnn {

// While it lives, this thread is not on the processor `cpu`, where there is another: Linux may wake a thread on the
// processor of the one that wakes it, and leaves both there for milliseconds.
class Apart {
 public:
  explicit Apart(int cpu) {
    cpu_set_t others;
    if (sched_getcpu() != cpu || sched_getaffinity(0, sizeof before_, &before_) != 0) return;
    others = before_;
    CPU_CLR(cpu, &others);
    moved_ = CPU_COUNT(&others) > 0 && sched_setaffinity(0, sizeof others, &others) == 0;
  }
  ~Apart() {
    if (moved_) sched_setaffinity(0, sizeof before_, &before_);
  }

 private:
  cpu_set_t before_;
  bool moved_ = false;
};

// Runs piece(0) to piece(pieces - 1), some of them in the caller's thread; returns the first error's text, or "".
//
// The caller works, too, and at the end waits only for pieces that a thread has begun: so it comes to an end even when
// every thread of the pool is busy, or waits here itself. A task that starts later finds nothing left, and keeps
// alive what it looks at.
inline std::string Parallel(xla::ffi::ThreadPool& pool, int64_t pieces, const std::function<void(int64_t)>& piece) {
  struct Shared {
    std::atomic<int64_t> next{0};
    int64_t done = 0;
    std::string error;
    std::mutex mutex;
    std::condition_variable all_done;
  };
  const auto shared = std::make_shared<Shared>();
  const auto work = [shared, pieces, &piece] {  // piece is alive as long as one is left
    for (int64_t i = shared->next++; i < pieces; i = shared->next++) {
      std::string error;
      try {
        OneThread one;
        piece(i);
      } catch (const std::exception& problem) {
        error = problem.what();
      }
      std::lock_guard<std::mutex> lock(shared->mutex);
      if (shared->error.empty()) shared->error = error;
      if (++shared->done == pieces) shared->all_done.notify_all();
    }
  };
  const int64_t helpers = std::min(pieces, pool.num_threads()) - 1;
  try {
    for (int64_t i = 0; i < helpers; i++)
      pool.Schedule([work, cpu = sched_getcpu()] {
        Apart apart(cpu);
        work();
      });
  } catch (const std::bad_alloc&) {  // fewer help; to leave here would be to leave them with a piece that is gone
  }
  work();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done == pieces; });
  return shared->error;
}

// Memory of one call or piece, lent by a stock that all threads share: of each power of two as many blocks as were ever
// in use at once. A block for each thread would be held by all that ever made a call. Leaked, as the plans are.
class Workspace {
 public:
  ~Workspace() {
    std::lock_guard<std::mutex> lock(Shared().mutex);
    if (data_ != nullptr) Shared().blocks[size_].push_back(data_);
  }
  void* Bytes(size_t size) {  // once
    for (size_ = 64; size_ < size;) size_ *= 2;
    std::lock_guard<std::mutex> lock(Shared().mutex);
    std::vector<void*>& blocks = Shared().blocks[size_];
    if (blocks.empty()) blocks.push_back(std::aligned_alloc(64, size_));
    data_ = blocks.back();
    blocks.pop_back();
    if (data_ == nullptr) throw std::bad_alloc();
    return data_;
  }

 private:
  struct Stock {
    std::mutex mutex;
    std::map<size_t, std::vector<void*>> blocks;
  };
  static Stock& Shared() {
    static Stock* stock = new Stock;
    return *stock;
  }
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace jaxcnn
