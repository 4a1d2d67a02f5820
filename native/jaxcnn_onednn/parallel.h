// Work cut into pieces that run on XLA's own threads; no thread is made, none spins.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "plan.h"
#include "xla/ffi/api/ffi.h"

namespace jaxcnn {

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
  for (int64_t i = 0; i < helpers; i++) pool.Schedule([work] { work(); });
  work();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done == pieces; });
  return shared->error;
}

// Memory of a thread that its next call finds again; it grows to the largest that was needed.
class Workspace {
 public:
  ~Workspace() { std::free(data_); }
  void* Bytes(size_t size) {
    if (size > size_) {
      std::free(data_);
      size_ = 0;
      data_ = std::aligned_alloc(64, (size + 63) / 64 * 64);
      if (data_ == nullptr) throw std::bad_alloc();
      size_ = size;
    }
    return data_;
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace jaxcnn
