#include "cli/bench_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <random>
#include <utility>

#include "base/memory.h"
#include "base/progress.h"
#include "cli/output.h"
#include "cli/roofline.h"
#include "marlin/error.h"

namespace marlin::cli {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr int kBlock = 64;  // positions of a KV block: the prefix cache keeps whole ones
constexpr int kWarmUpPrompt = 512;
constexpr int kWarmUpTokens = 16;
constexpr int kSmallestContext = 128;  // room for a warm-up even when the tests are tiny

double now_ms() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

uint64_t checkpoint_bytes(const std::filesystem::path& directory) {
  uint64_t bytes = 0;
  std::error_code error;  // whatever is wrong with the directory, loading it says so better
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    std::error_code ignored;
    const auto size = entry.path().extension() == ".safetensors" ? entry.file_size(ignored) : 0;
    if (!ignored) bytes += size;
  }
  return bytes;
}

std::string swap_state(const MemoryStatus& memory) {
  if (memory.swap_total == 0) return "no swap";
  return fmt::format("swap {} of {} used", human_bytes(memory.swap_used), human_bytes(memory.swap_total));
}

/// The engine refuses a model that does not fit; here its neighbour is added, the buffer of the bandwidth test.
void check_room(const std::string& model, const MemoryStatus& memory, uint64_t weights, uint64_t cache) {
  const uint64_t buffer = roofline_bytes();
  const uint64_t kept = std::max<uint64_t>(256 * kMiB, memory.total / 32);
  if (memory.available == 0 || weights + cache + buffer + kept <= memory.available) return;
  throw Error(ErrorCode::kNoMemory,
              fmt::format("{} does not fit: {} weights + {} KV cache + {} that --roofline reads + {} kept for the "
                          "system, but {} of {} are available, {}; leave --roofline out or close other programs",
                          model, human_bytes(weights), human_bytes(cache), human_bytes(buffer), human_bytes(kept),
                          human_bytes(memory.available), human_bytes(memory.total), swap_state(memory)));
}

/// Pseudo-random ids that text could have: the same in every run, none of them a control or added token.
class PromptMaker {
 public:
  explicit PromptMaker(const Engine& engine)
      : engine_(engine), known_(static_cast<size_t>(engine.info().vocab_size), Kind::kUnknown) {}

  /// The first `n` ids of one of many sequences; more of the same sequence begin with the same ids.
  std::vector<int32_t> ids(uint64_t sequence, int n) {
    constexpr int kTries = 1 << 20;
    std::mt19937_64 random(0x6d61726c696e + sequence);
    std::vector<int32_t> result;
    for (int tries = 0; static_cast<int>(result.size()) < n; ++tries) {
      const auto id = static_cast<int32_t>(random() % known_.size());
      if (ordinary(id)) result.push_back(id);
      if (tries == kTries && result.empty()) {
        throw Error(ErrorCode::kUnsupported, "this vocabulary has nothing but added tokens; expected some of text");
      }
    }
    return result;
  }

 private:
  enum class Kind : uint8_t { kUnknown, kOrdinary, kAdded };

  bool ordinary(int32_t id) {
    Kind& kind = known_[static_cast<size_t>(id)];
    if (kind == Kind::kUnknown) {
      const std::string text = engine_.detokenize(std::span(&id, 1), /*skip_special=*/true);
      const bool added = text.empty() || engine_.tokenize(text, true) != engine_.tokenize(text, false);
      kind = added ? Kind::kAdded : Kind::kOrdinary;
    }
    return kind == Kind::kOrdinary;
  }

  const Engine& engine_;
  std::vector<Kind> known_;
};

/// One sequence of a repetition: when it was submitted and got its tokens, on the clock of now_ms().
struct Track {
  double submitted = 0;
  std::vector<double> tokens;
  Finished finished;
};

Track receive(RequestHandle& handle, double submitted) {
  Track track;
  track.submitted = submitted;
  for (;;) {
    RequestHandle::Event event = handle.next();
    if (event.token) {
      track.tokens.push_back(submitted + event.token->ms);
    } else if (event.finished) {
      track.finished = std::move(*event.finished);
      break;
    } else {
      throw Error(ErrorCode::kUnsupported, "the engine ended a request without a result");
    }
  }
  if (track.finished.error) throw Error(*track.finished.error);
  return track;
}

/// Rates and first-token times of one repetition.
struct Repetition {
  double tps = 0;
  std::vector<double> ttft_ms;
};

class Bench {
 public:
  explicit Bench(const BenchOptions& options);
  BenchReport run();

 private:
  void load();
  void warm_up();
  void measure_bandwidth();
  void prepare(const BenchTest& test);
  BenchRow measure(const BenchTest& test);
  Repetition repeat(const BenchTest& test);
  std::vector<Track> run_together(std::vector<std::vector<int32_t>> prompts, int new_tokens);
  void check_cached(const BenchTest& test, int kept, const Finished& finished) const;
  void progress(const std::string& item) { bar_.update(done_, total_, item); }

  const BenchOptions& options_;
  EngineOptions engine_options_;
  ProgressBar bar_;
  uint64_t done_ = 0, total_ = 1;
  MemoryStatus memory_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<PromptMaker> prompts_;
  std::unique_ptr<Roofline> roofline_;
  double load_start_ = 0;
  uint64_t fresh_ = uint64_t{1} << 32;  // sequences of ids that no request has had; smaller numbers are prefixes
  uint64_t peak_ = 0;
  bool peak_known_ = true;
  BenchReport report_;
};

Bench::Bench(const BenchOptions& options)
    : options_(options), engine_options_(options.engine), bar_("bench"), memory_(memory_status()) {
  int batch = 1;
  for (const BenchTest& test : options.tests) batch = std::max(batch, test.batch);
  engine_options_.max_parallel = batch;
  engine_options_.kv_contexts = batch;
  engine_options_.context = std::max(kSmallestContext, longest_sequence(options.tests));
  engine_options_.prefix_cache = true;
  engine_options_.progress = bar_.callback();
  total_ = options.tests.size() * static_cast<uint64_t>(options.repetitions);
}

BenchReport Bench::run() {
  load();
  warm_up();
  if (options_.roofline) roofline_ = std::make_unique<Roofline>(std::max(1, engine_->info().threads));
  measure_bandwidth();
  for (const BenchTest& test : options_.tests) {
    prepare(test);
    report_.rows.push_back(measure(test));
    measure_bandwidth();
  }
  if (engine_->stats().suspended > 0) report_.notes.emplace_back("sequences were suspended for want of KV blocks");
  const uint64_t swapped = memory_status().swap_used;
  if (swapped > memory_.swap_used + 64 * kMiB) {
    report_.notes.push_back(fmt::format("the machine swapped meanwhile ({} more in use): the figures may mean little",
                                        human_bytes(swapped - memory_.swap_used)));
  }
  peak_ = std::max(peak_, peak_resident_bytes());
  if (peak_known_) report_.peak_rss_bytes = peak_;
  if (roofline_) {
    report_.bandwidth = spread_of(roofline_->gbps());
    report_.bandwidth_passes = roofline_->gbps().size();
  }
  for (BenchRow& row : report_.rows) {
    if (!row.gbps || !report_.bandwidth || report_.info.device != "cpu") continue;
    row.percent = 100 * *row.gbps / report_.bandwidth->median;
  }
  return std::move(report_);
}

void Bench::load() {
  const std::string name = engine_options_.model.filename().string();
  report_.file_bytes = checkpoint_bytes(engine_options_.model);
  report_.options = engine_options_;
  report_.repetitions = options_.repetitions;
  if (options_.roofline) check_room(name, memory_, report_.file_bytes, 0);
  load_start_ = now_ms();
  try {
    engine_ = std::make_unique<Engine>(engine_options_);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNoMemory) throw;
    throw Error(
        error.code(),
        fmt::format("{}; bench's context is the largest -d plus -p or -n, for each of -b sequences", error.what()));
  }
  report_.info = engine_->info();
  if (options_.roofline) check_room(name, memory_, report_.file_bytes, report_.info.kv_memory);
  prompts_ = std::make_unique<PromptMaker>(*engine_);
}

void Bench::warm_up() {
  progress("warm-up");
  const int prompt = std::min(kWarmUpPrompt, report_.info.context - kWarmUpTokens);
  std::vector<std::vector<int32_t>> prompts(1, prompts_->ids(fresh_++, prompt));
  const std::vector<Track> tracks = run_together(std::move(prompts), kWarmUpTokens);
  report_.first_token_s = (tracks.front().tokens.front() - load_start_) / 1000;
}

void Bench::measure_bandwidth() {
  if (!roofline_) return;
  progress("memory bandwidth");
  peak_ = std::max(peak_, peak_resident_bytes());
  roofline_->measure();
  peak_known_ = reset_peak_resident_bytes() && peak_known_;
}

// Puts the depth's positions into the prefix cache, other ones for each sequence.
void Bench::prepare(const BenchTest& test) {
  if (test.depth == 0) return;
  progress(fmt::format("{} positions for {}", test.depth, test.label()));
  for (int i = 0; i < test.batch; ++i) {
    run_together({prompts_->ids(static_cast<uint64_t>(i), test.depth)}, /*new_tokens=*/1);
  }
}

BenchRow Bench::measure(const BenchTest& test) {
  std::vector<double> tps;
  std::vector<double> ttft_ms;
  for (int i = 1; i <= options_.repetitions; ++i) {
    progress(fmt::format("{}, batch {}, {} of {}", test.label(), test.batch, i, options_.repetitions));
    const Repetition repetition = repeat(test);
    tps.push_back(repetition.tps);
    ttft_ms.insert(ttft_ms.end(), repetition.ttft_ms.begin(), repetition.ttft_ms.end());
    ++done_;
  }
  BenchRow row = {.test = test, .tps = spread_of(tps), .ttft_ms = spread_of(ttft_ms).median};
  if (!test.prompt) {
    row.step_bytes = step_bytes(report_.info, test.batch);
    row.gbps = row.step_bytes * row.tps.median / test.batch / 1e9;
  }
  return row;
}

Repetition Bench::repeat(const BenchTest& test) {
  const int fresh = test.prompt ? test.tokens : 1;
  const int kept = test.prompt_tokens() - fresh;
  std::vector<std::vector<int32_t>> prompts;
  for (int i = 0; i < test.batch; ++i) {
    std::vector<int32_t> prompt = prompts_->ids(static_cast<uint64_t>(i), kept);
    const std::vector<int32_t> suffix = prompts_->ids(fresh_++, fresh);
    prompt.insert(prompt.end(), suffix.begin(), suffix.end());
    prompts.push_back(std::move(prompt));
  }
  const std::vector<Track> tracks = run_together(std::move(prompts), test.new_tokens());
  Repetition result;
  int computed = 0;
  double begin = tracks.front().submitted + tracks.front().finished.timings.queue_ms;
  double end = begin;
  std::vector<std::vector<double>> times;
  for (const Track& track : tracks) {
    check_cached(test, kept, track.finished);
    computed += track.finished.prompt_tokens - track.finished.cached_tokens;
    begin = std::min(begin, track.submitted + track.finished.timings.queue_ms);
    end = std::max(end, track.tokens.front());
    result.ttft_ms.push_back(track.finished.timings.ttft_ms);
    times.push_back(track.tokens);
  }
  result.tps = test.prompt ? computed * 1000 / (end - begin) : decode_rate(times);
  if (result.tps > 0) return result;
  throw Error(ErrorCode::kUsage, fmt::format("{}, batch {}: the sequences never decoded all together; give -n more "
                                             "tokens or -b fewer sequences",
                                             test.label(), test.batch));
}

std::vector<Track> Bench::run_together(std::vector<std::vector<int32_t>> prompts, int new_tokens) {
  std::vector<RequestHandle> handles;
  std::vector<double> submitted;
  for (std::vector<int32_t>& prompt : prompts) {
    Request request;
    request.prompt = std::move(prompt);
    request.sampling = {};
    request.sampling.temperature = 0;
    request.max_tokens = new_tokens;
    request.ignore_eos = true;
    request.parse_output = false;
    request.repetition_guard = false;
    submitted.push_back(now_ms());
    handles.push_back(engine_->submit(std::move(request)));
  }
  std::vector<Track> tracks;
  for (size_t i = 0; i < handles.size(); ++i) {
    tracks.push_back(receive(handles[i], submitted[i]));
    if (static_cast<int>(tracks.back().tokens.size()) == new_tokens) continue;
    throw Error(ErrorCode::kUnsupported, fmt::format("the engine generated {} tokens where {} were asked for",
                                                     tracks.back().tokens.size(), new_tokens));
  }
  return tracks;
}

// Of the cached part nothing but the last partial block may be computed again, and nothing fresh may have been cached:
// otherwise the rate would be of something else.
void Bench::check_cached(const BenchTest& test, int kept, const Finished& finished) const {
  const int expected = kept / kBlock * kBlock;
  if (finished.cached_tokens == expected) return;
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{}, batch {}: the prefix cache gave {} positions of {}; expected {}: nothing else may be "
                          "computed again or known before",
                          test.label(), test.batch, finished.cached_tokens, finished.prompt_tokens, expected));
}

}  // namespace

BenchReport run_bench(const BenchOptions& options) {
  return Bench(options).run();
}

}  // namespace marlin::cli
