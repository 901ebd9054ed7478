// The fake Metal through the calls that the backend uses: legal programs work and stay silent, and each thing that
// Apple's validation layer would find is reported.
#include "metal/fake/fake_metal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <numeric>
#include <optional>
#include <thread>

#include "backend/metal/objc.h"

extern "C" {
void objc_msgSend();
void* sel_registerName(const char* name);
void* objc_getClass(const char* name);
void* objc_retain(void* object);
void objc_release(void* object);
void* objc_autoreleasePoolPush();
void objc_autoreleasePoolPop(void* token);
}

namespace marlin::metal {
namespace {

using fake_metal::take_reports;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr uint32_t kN = 64;  // values of a buffer, threads of a dispatch
constexpr size_t kBytes = kN * sizeof(uint32_t);

/// A device with its queue and library. What a test does not expect is a failure at its end.
class FakeMetalTest : public ::testing::Test {
 protected:
  void SetUp() override { start({}); }

  void start(const fake_metal::Options& options) {
    finish();
    fake_metal::set_options(options);
    device_ = create_system_default_device();
    queue_ = device::new_command_queue(device_.get(), 8);
    std::string error;
    library_ = device::new_library_with_source(device_.get(), "kernel void f() {}", error);
    ASSERT_TRUE(library_) << error;
  }

  void finish() {
    library_ = {};
    queue_ = {};
    device_ = {};
  }

  void TearDown() override {
    fake_metal::release();
    finish();
    fake_metal::show_all_selectors();
    EXPECT_THAT(fake_metal::live_objects(), IsEmpty());
    EXPECT_THAT(take_reports(), IsEmpty());
    fake_metal::take_counts();
  }

  Object buffer(uint32_t first = 0) {
    Object result = device::new_buffer(device_.get(), kBytes, kResourceHazardTrackingModeUntracked);
    auto* data = static_cast<uint32_t*>(buffer::contents(result.get()));
    std::iota(data, data + kN, first);
    return result;
  }

  static std::vector<uint32_t> values(const Object& buffer) {
    auto* data = static_cast<uint32_t*>(buffer::contents(buffer.get()));
    return {data, data + kN};
  }

  Object pipeline(const char* kernel, std::optional<uint32_t> amount = {}) {
    std::string error;
    const int index = 0;
    const uint32_t value = amount.value_or(0);
    Object function = library::new_function(library_.get(), kernel, &value, &index, amount ? 1 : 0, error);
    EXPECT_TRUE(function) << error;
    Object result = device::new_compute_pipeline(device_.get(), function.get(), error);
    EXPECT_TRUE(result) << error;
    return result;
  }

  Object command_buffer() { return queue::command_buffer(queue_.get()); }

  /// Runs commands of one encoder; returns the command buffer's error.
  template <typename Encode>
  std::string run(Encode encode) {
    Object commands = command_buffer();
    Object encoder = command_buffer::compute_encoder(commands.get());
    encode(encoder.get());
    encoder::end(encoder.get());
    command_buffer::commit(commands.get());
    command_buffer::wait_until_completed(commands.get());
    return command_buffer::error(commands.get());
  }

  /// The same for something wrong, which must be the error and the only report.
  template <typename Encode>
  std::string run_fault(Encode encode) {
    std::string error = run(encode);
    std::vector<std::string> reports = take_reports();
    EXPECT_EQ(reports.size(), 1u) << ::testing::PrintToString(reports);
    EXPECT_THAT(error, HasSubstr(reports.empty() ? "a report" : reports[0]));
    return error;
  }

  static void dispatch(Id encoder) { encoder::dispatch_threadgroups(encoder, {kN / 32, 1, 1}, {32, 1, 1}); }

  Object device_, queue_, library_;
};

std::vector<uint32_t> counting_from(uint32_t first) {
  std::vector<uint32_t> result(kN);
  std::iota(result.begin(), result.end(), first);
  return result;
}

// ---- the runtime ----------------------------------------------------------------------------------------------------

TEST_F(FakeMetalTest, EverySelectorIsKnown) {
  EXPECT_EQ(missing_selectors(device_.get()), "");
}

TEST_F(FakeMetalTest, MissingSelectorsAreNamed) {
  for (auto [name, selector] : std::initializer_list<std::array<const char*, 2>>{
           {"MTLDevice", "recommendedMaxWorkingSetSize"},
           {"MTLBuffer", "gpuAddress"},
           {"MTLCommandQueue", "commandBufferWithDescriptor:"},
           {"MTLCommandBuffer", "GPUEndTime"},
           {"MTLComputeCommandEncoder", "useResources:count:usage:"},
           {"MTLFunctionConstantValues", "setConstantValue:type:atIndex:"},
           {"NSURL", "fileURLWithPath:"}}) {
    fake_metal::hide_selector(name, selector);
    const std::string expected = std::string("class ") + name + " does not answer to selector " + selector;
    EXPECT_EQ(missing_selectors(device_.get()), expected);
    fake_metal::show_all_selectors();
  }
}

TEST_F(FakeMetalTest, LibrariesAndPipelinesAreAskedWhenMade) {
  std::string error;
  fake_metal::hide_selector("MTLLibrary", "newFunctionWithName:constantValues:error:");
  EXPECT_FALSE(device::new_library_with_source(device_.get(), "x", error));
  EXPECT_EQ(error, "class MTLLibrary does not answer to selector newFunctionWithName:constantValues:error:");
  fake_metal::show_all_selectors();
  Object function = library::new_function(library_.get(), "fill", nullptr, nullptr, 0, error);
  fake_metal::hide_selector("MTLComputePipelineState", "threadExecutionWidth");
  EXPECT_FALSE(device::new_compute_pipeline(device_.get(), function.get(), error));
  EXPECT_EQ(error, "class MTLComputePipelineState does not answer to selector threadExecutionWidth");
}

TEST_F(FakeMetalTest, SystemsWithoutMathModeTurnFastMathOff) {
  std::string error;
  fake_metal::hide_selector("MTLCompileOptions", "setMathMode:");
  fake_metal::hide_selector("MTLCompileOptions", "setMathFloatingPointFunctions:");
  EXPECT_EQ(missing_selectors(device_.get()), "");
  EXPECT_TRUE(device::new_library_with_source(device_.get(), "x", error)) << error;
  fake_metal::hide_selector("MTLCompileOptions", "setFastMathEnabled:");
  EXPECT_THAT(missing_selectors(device_.get()), HasSubstr("neither setMathMode: nor setFastMathEnabled:"));
}

Id send(Id receiver, const char* selector) {
  return reinterpret_cast<Id (*)(Id, void*)>(objc_msgSend)(receiver, sel_registerName(selector));
}

TEST_F(FakeMetalTest, UnknownSelectorsEndTheProgram) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(send(device_.get(), "newCommandQueu"), "-\\[MTLDevice newCommandQueu\\]: unrecognized selector");
  EXPECT_DEATH(send(objc_getClass("NSString"), "UTF8String"), "\\+\\[NSString UTF8String\\]: unrecognized selector");
}

TEST_F(FakeMetalTest, WrongObjectsEndTheProgram) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  std::string error;
  EXPECT_DEATH(device::new_compute_pipeline(device_.get(), queue_.get(), error),
               "newComputePipelineStateWithFunction:error: got a MTLCommandQueue where it takes a MTLFunction");
  Id dead = Object(device::new_buffer(device_.get(), 16, 0)).get();
  EXPECT_DEATH(buffer::length(dead), "message length to a deallocated MTLBuffer");
}

TEST_F(FakeMetalTest, NilAnswersZero) {
  EXPECT_EQ(send(nullptr, "anything"), nullptr);
  EXPECT_EQ(command_buffer::gpu_start_time(nullptr), 0.0);
  EXPECT_EQ(buffer::length(nullptr), 0u);
  EXPECT_FALSE(device::has_unified_memory(nullptr));
}

TEST_F(FakeMetalTest, ProtocolsHaveNoClassesByName) {
  EXPECT_EQ(objc_getClass("MTLDevice"), nullptr);
  EXPECT_EQ(objc_getClass("NoSuchClass"), nullptr);
  EXPECT_NE(objc_getClass("MTLCompileOptions"), nullptr);
}

TEST_F(FakeMetalTest, LeaksAndOverReleasesAreSeen) {
  Object kept = buffer();
  EXPECT_EQ(fake_metal::live_objects().at("MTLBuffer"), 1);
  Id dead = Object(device::new_buffer(device_.get(), 16, 0)).get();
  EXPECT_EQ(fake_metal::live_objects().at("MTLBuffer"), 1);
  objc_release(dead);
  EXPECT_THAT(take_reports(), ElementsAre("over-release: release of a deallocated MTLBuffer"));
  objc_retain(dead);
  EXPECT_THAT(take_reports(), ElementsAre("retain of a deallocated MTLBuffer"));
}

TEST_F(FakeMetalTest, AutoreleasedObjectsNeedAPool) {
  Id leaked = send(device_.get(), "name");
  EXPECT_THAT(take_reports(), ElementsAre("a NSString was autoreleased with no pool in place: it leaks"));
  objc_release(leaked);
  {
    AutoreleasePool outer;
    send(device_.get(), "name");
    { AutoreleasePool inner; }
    EXPECT_EQ(fake_metal::live_objects().at("NSString"), 1);
  }
  EXPECT_FALSE(fake_metal::live_objects().contains("NSString"));
  void* token = objc_autoreleasePoolPush();
  objc_autoreleasePoolPop(token);
  objc_autoreleasePoolPop(token);
  EXPECT_THAT(take_reports(), ElementsAre(HasSubstr("an autorelease pool ended twice")));
  std::thread([] { objc_autoreleasePoolPush(); }).join();
  EXPECT_THAT(take_reports(), ElementsAre("a thread ended inside an autorelease pool"));
}

// ---- device, buffers, kernels ---------------------------------------------------------------------------------------

TEST_F(FakeMetalTest, DeviceDescribesItself) {
  start({.working_set_bytes = 5 << 20, .max_buffer_bytes = 3 << 20});
  Id device = device_.get();
  EXPECT_EQ(device::name(device), "Fake Apple GPU");
  EXPECT_TRUE(device::has_unified_memory(device));
  EXPECT_TRUE(device::supports_family(device, kGpuFamilyMetal3));
  EXPECT_TRUE(device::supports_family(device, kGpuFamilyApple7));
  EXPECT_FALSE(device::supports_family(device, 4242));
  EXPECT_EQ(device::recommended_max_working_set_size(device), 5u << 20);
  EXPECT_EQ(device::max_buffer_length(device), 3u << 20);
  EXPECT_EQ(device::max_threadgroup_memory_length(device), 32768u);
}

TEST_F(FakeMetalTest, BuffersHaveLengthContentsAndAddress) {
  EXPECT_EQ(device::current_allocated_size(device_.get()), 0u);
  Object shared = buffer();
  buffer::set_label(shared.get(), "logits");
  EXPECT_EQ(device::current_allocated_size(device_.get()), kBytes);
  EXPECT_EQ(buffer::length(shared.get()), kBytes);
  EXPECT_EQ(buffer::gpu_address(shared.get()), reinterpret_cast<uint64_t>(buffer::contents(shared.get())));
  EXPECT_EQ(values(shared), counting_from(0));
  shared = {};
}

TEST_F(FakeMetalTest, BuffersOverTheLimitAreNil) {
  start({.max_buffer_bytes = 4096});
  EXPECT_TRUE(device::new_buffer(device_.get(), 4096, 0));
  EXPECT_FALSE(device::new_buffer(device_.get(), 4097, 0));
  EXPECT_THAT(take_reports(), IsEmpty());
  EXPECT_FALSE(device::new_buffer(device_.get(), 0, 0));
  EXPECT_THAT(take_reports(), ElementsAre(HasSubstr("a buffer of no bytes")));
  EXPECT_TRUE(device::new_buffer(device_.get(), 16, 2 << 4));  // MTLResourceStorageModePrivate
  EXPECT_THAT(take_reports(), ElementsAre(HasSubstr("shared storage only")));
}

/// Pages of our own, read-only if asked.
class Pages {
 public:
  explicit Pages(int protection) : data_(mmap(nullptr, size(), protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {}
  ~Pages() { munmap(data_, size()); }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  static size_t size() { return 2 * static_cast<size_t>(sysconf(_SC_PAGESIZE)); }
  char* data() const { return static_cast<char*>(data_); }

 private:
  void* data_;
};

TEST_F(FakeMetalTest, ForeignMemoryMustBeWholePages) {
  Pages pages(PROT_READ | PROT_WRITE);
  Object whole = device::new_buffer_no_copy(device_.get(), pages.data(), Pages::size(), 0);
  ASSERT_TRUE(whole);
  EXPECT_EQ(buffer::contents(whole.get()), pages.data());
  EXPECT_FALSE(device::new_buffer_no_copy(device_.get(), pages.data() + 16, Pages::size() / 2, 0));
  EXPECT_THAT(take_reports(), ElementsAre(HasSubstr("multiples of the page size")));
  EXPECT_FALSE(device::new_buffer_no_copy(device_.get(), pages.data(), Pages::size() - 1, 0));
  EXPECT_THAT(take_reports(), ElementsAre(HasSubstr("multiples of the page size")));
}

TEST_F(FakeMetalTest, KernelsMayNotWriteReadOnlyMappings) {
  Pages pages(PROT_READ);
  Object mapped = device::new_buffer_no_copy(device_.get(), pages.data(), Pages::size(), 0);
  Object fill = pipeline("fill");
  const uint32_t value = 1;
  EXPECT_THAT(run([&](Id encoder) {
                encoder::set_pipeline(encoder, fill.get());
                encoder::set_buffer(encoder, mapped.get(), 0, 0);
                encoder::set_bytes(encoder, &value, sizeof(value), 1);
                encoder::dispatch_threadgroups(encoder, {1, 1, 1}, {1, 1, 1});
              }),
              HasSubstr("fill"));
  EXPECT_THAT(take_reports(), Not(IsEmpty()));
}

TEST_F(FakeMetalTest, LibrariesComeFromSourceOnly) {
  std::string error;
  EXPECT_FALSE(device::new_library_with_source(device_.get(), "", error));
  EXPECT_THAT(error, HasSubstr("the source is empty"));
  EXPECT_FALSE(device::new_library_with_file(device_.get(), "/nowhere/kernels.metallib", error));
  EXPECT_THAT(error, HasSubstr("/nowhere/kernels.metallib"));
}

TEST_F(FakeMetalTest, FunctionsAndTheirConstantsAreChecked) {
  std::string error;
  const uint32_t value = 7;
  const int amount = 0, twice = 1, unknown = 5;
  EXPECT_FALSE(library::new_function(library_.get(), "no_such_kernel", nullptr, nullptr, 0, error));
  EXPECT_THAT(error, HasSubstr("no function named 'no_such_kernel'"));
  EXPECT_THAT(take_reports(), IsEmpty());
  EXPECT_TRUE(library::new_function(library_.get(), "fill", &value, &amount, 1, error)) << error;
  EXPECT_EQ(error, "");
  EXPECT_FALSE(library::new_function(library_.get(), "fill", &value, &unknown, 1, error));
  EXPECT_THAT(error, HasSubstr("function constant 5 is not declared"));
  EXPECT_THAT(take_reports(), ElementsAre(HasSubstr("function constant 5")));
  EXPECT_FALSE(library::new_function(library_.get(), "fill", &value, &twice, 1, error));
  EXPECT_THAT(error, HasSubstr("function constant 1 ('twice') is a bool, and got a uint"));
  EXPECT_THAT(take_reports(), ElementsAre(HasSubstr("'twice'")));
  EXPECT_FALSE(device::new_compute_pipeline(device_.get(), nullptr, error));
  EXPECT_THAT(take_reports(), ElementsAre(HasSubstr("got nil")));
}

TEST_F(FakeMetalTest, PipelinesTellTheirLimits) {
  Object fill = pipeline("fill");
  EXPECT_EQ(pipeline::max_total_threads_per_threadgroup(fill.get()), 1024u);
  EXPECT_EQ(pipeline::thread_execution_width(fill.get()), 32u);
  EXPECT_EQ(pipeline::static_threadgroup_memory_length(fill.get()), 0u);
}

// ---- legal programs -------------------------------------------------------------------------------------------------

TEST_F(FakeMetalTest, ADispatchRuns) {
  Object out = buffer();
  Object fill = pipeline("fill");
  Object commands = command_buffer();
  command_buffer::set_label(commands.get(), "step");
  Object encoder = command_buffer::compute_encoder(commands.get());
  encoder::set_label(encoder.get(), "layer");
  encoder::insert_debug_signpost(encoder.get(), "fill");
  encoder::set_pipeline(encoder.get(), fill.get());
  encoder::set_buffer(encoder.get(), out.get(), 0, 0);
  const uint32_t value = 42;
  encoder::set_bytes(encoder.get(), &value, sizeof(value), 1);
  dispatch(encoder.get());
  encoder::end(encoder.get());
  EXPECT_EQ(command_buffer::status(commands.get()), 0u);
  command_buffer::commit(commands.get());
  command_buffer::wait_until_completed(commands.get());
  EXPECT_EQ(command_buffer::status(commands.get()), kCommandBufferStatusCompleted);
  EXPECT_EQ(command_buffer::error(commands.get()), "");
  EXPECT_GT(command_buffer::gpu_start_time(commands.get()), 0);
  EXPECT_GE(command_buffer::gpu_end_time(commands.get()), command_buffer::gpu_start_time(commands.get()));
  EXPECT_EQ(values(out), std::vector<uint32_t>(kN, 42));
  auto counts = fake_metal::take_counts();
  EXPECT_EQ(counts.at("fill").dispatches, 1u);
  EXPECT_THAT(fake_metal::take_counts(), IsEmpty());
  EXPECT_THAT(fake_metal::take_notes(), IsEmpty());
}

TEST_F(FakeMetalTest, OffsetsAndThreadgroupMemory) {
  Object out = buffer();
  Object reverse = pipeline("reverse"), fill = pipeline("fill");
  const uint32_t value = 9;
  EXPECT_EQ(run([&](Id encoder) {
              encoder::set_pipeline(encoder, reverse.get());
              encoder::set_buffer(encoder, out.get(), 0, 0);
              encoder::set_threadgroup_memory(encoder, kBytes, 0);
              encoder::dispatch_threadgroups(encoder, {1, 1, 1}, {kN, 1, 1});
              // Lengths stay set; a kernel without threadgroup memory does not mind.
              encoder::set_pipeline(encoder, fill.get());
              encoder::set_buffer(encoder, out.get(), kBytes - sizeof(value), 0);
              encoder::set_bytes(encoder, &value, sizeof(value), 1);
              encoder::dispatch_threadgroups(encoder, {1, 1, 1}, {1, 1, 1});
            }),
            "");
  std::vector<uint32_t> expected = counting_from(0);
  std::reverse(expected.begin(), expected.end());
  expected.back() = 9;
  EXPECT_EQ(values(out), expected);
}

// What a kernel reaches by an address is seen in checked runs.
TEST_F(FakeMetalTest, AddressesReachResidentBuffersOnly) {
  start({.execution = {.checked = true}});
  Object out = buffer(), from = buffer(100), addresses = buffer();
  const uint64_t address = buffer::gpu_address(from.get());
  std::memcpy(buffer::contents(addresses.get()), &address, sizeof(address));
  Object copy = pipeline("copy_indirect");
  auto encode = [&](Id encoder, bool resident) {
    Id resources[] = {from.get()};
    if (resident) encoder::use_resources(encoder, resources, 1, kResourceUsageRead);
    encoder::set_pipeline(encoder, copy.get());
    encoder::set_buffer(encoder, out.get(), 0, 0);
    encoder::set_buffer(encoder, addresses.get(), 0, 1);
    dispatch(encoder);
  };
  EXPECT_EQ(run([&](Id encoder) { encode(encoder, true); }), "");
  EXPECT_EQ(values(out), counting_from(100));
  EXPECT_THAT(run([&](Id encoder) { encode(encoder, false); }), HasSubstr("copy_indirect"));
  EXPECT_THAT(take_reports(), Not(IsEmpty()));
}

TEST_F(FakeMetalTest, QueuedCommandBuffersRunInOrder) {
  start({.most_delay_us = 2000});
  Object out = buffer();
  Object three = pipeline("times_ten_plus", 3), four = pipeline("times_ten_plus", 4);
  static_cast<uint32_t*>(buffer::contents(out.get()))[0] = 1;
  Object last;
  for (Id step : {three.get(), four.get(), three.get()}) {
    last = command_buffer();
    Object encoder = command_buffer::compute_encoder(last.get());
    encoder::set_pipeline(encoder.get(), step);
    encoder::set_buffer(encoder.get(), out.get(), 0, 0);
    encoder::dispatch_threadgroups(encoder.get(), {1, 1, 1}, {1, 1, 1});
    encoder::end(encoder.get());
    command_buffer::commit(last.get());
  }
  command_buffer::wait_until_completed(last.get());
  EXPECT_EQ(values(out)[0], 1343u);
}

TEST_F(FakeMetalTest, QueuesAreIndependent) {
  start({.most_delay_us = 2000});
  Object other = device::new_command_queue(device_.get(), 4);
  Object out = buffer(), other_out = buffer();
  Object step = pipeline("times_ten_plus", 1);
  for (Id target : {out.get(), other_out.get(), out.get(), other_out.get()}) {
    Object commands = queue::command_buffer(target == out.get() ? queue_.get() : other.get());
    Object encoder = command_buffer::compute_encoder(commands.get());
    encoder::set_pipeline(encoder.get(), step.get());
    encoder::set_buffer(encoder.get(), target, 0, 0);
    encoder::dispatch_threadgroups(encoder.get(), {1, 1, 1}, {1, 1, 1});
    encoder::end(encoder.get());
    command_buffer::commit(commands.get());
  }
  fake_metal::live_objects();  // waits
  EXPECT_EQ(values(out)[0], 11u);
  EXPECT_EQ(values(other_out)[0], 11u);
}

TEST_F(FakeMetalTest, HeldWorkKeepsWhatItUsesAndShowsEarlyAccess) {
  start({.most_delay_us = 0});
  Object out = buffer(), other = buffer(5);
  Object commands = command_buffer();
  {
    Object fill = pipeline("fill"), passing = buffer();
    Object encoder = command_buffer::compute_encoder(commands.get());
    const uint32_t value = 8;
    encoder::set_pipeline(encoder.get(), fill.get());
    encoder::set_bytes(encoder.get(), &value, sizeof(value), 1);
    for (Id target : {passing.get(), out.get()}) {
      encoder::set_buffer(encoder.get(), target, 0, 0);
      dispatch(encoder.get());
    }
    encoder::end(encoder.get());
  }
  fake_metal::hold();
  buffer::set_label(out.get(), "out");
  const void* address = buffer::contents(out.get());
  command_buffer::commit(commands.get());
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(fake_metal::live_objects().at("MTLBuffer"), 3) << "the command buffer keeps one alive";
  EXPECT_LT(command_buffer::status(commands.get()), kCommandBufferStatusCompleted);
  EXPECT_EQ(values(other), counting_from(5));
  EXPECT_THAT(take_reports(), IsEmpty()) << "a buffer that is not in use";
  buffer::contents(out.get());
  EXPECT_THAT(take_reports(), ElementsAre(HasSubstr("the host uses buffer 'out' while committed work")));
  fake_metal::expect_idle(static_cast<const char*>(address) + 8, 4);
  EXPECT_THAT(take_reports(), ElementsAre(HasSubstr("the host uses buffer 'out' while committed work")));
  fake_metal::release();
  command_buffer::wait_until_completed(commands.get());
  EXPECT_EQ(values(out), std::vector<uint32_t>(kN, 8));
  EXPECT_EQ(fake_metal::live_objects().at("MTLBuffer"), 2);
}

TEST_F(FakeMetalTest, AReleasedCommandBufferRunsToItsEnd) {
  Object out = buffer();
  Object fill = pipeline("fill");
  {
    Object commands = command_buffer();
    Object encoder = command_buffer::compute_encoder(commands.get());
    const uint32_t value = 6;
    encoder::set_pipeline(encoder.get(), fill.get());
    encoder::set_buffer(encoder.get(), out.get(), 0, 0);
    encoder::set_bytes(encoder.get(), &value, sizeof(value), 1);
    dispatch(encoder.get());
    encoder::end(encoder.get());
    command_buffer::commit(commands.get());
  }
  finish();  // the queue goes with its last command buffer
  fake_metal::live_objects();
  EXPECT_EQ(values(out), std::vector<uint32_t>(kN, 6));
}

TEST_F(FakeMetalTest, ACommandBufferMayBeDropped) {
  Object commands = command_buffer();
  Object encoder = command_buffer::compute_encoder(commands.get());
  encoder::end(encoder.get());
}

TEST_F(FakeMetalTest, AQueueHasSoManyCommandBuffers) {
  Object queue = device::new_command_queue(device_.get(), 2);
  for (int i = 0; i < 10; ++i) command_buffer::commit(queue::command_buffer(queue.get()).get());
  EXPECT_THAT(take_reports(), IsEmpty());
  fake_metal::live_objects();
  Object first = queue::command_buffer(queue.get()), second = queue::command_buffer(queue.get());
  Object third = queue::command_buffer(queue.get());
  EXPECT_THAT(take_reports(), ElementsAre(HasSubstr("more than the queue allows (2)")));
}

// ---- failures -------------------------------------------------------------------------------------------------------

TEST_F(FakeMetalTest, AFailingKernelNamesItsEncoder) {
  Object out = buffer();
  Object fill = pipeline("fill"), bad = pipeline("write_outside");
  const uint32_t value = 1;
  Object commands = command_buffer();
  auto encode = [&](Id step, const char* label) {
    Object encoder = command_buffer::compute_encoder(commands.get());
    encoder::set_label(encoder.get(), label);
    encoder::insert_debug_signpost(encoder.get(), "first");
    encoder::insert_debug_signpost(encoder.get(), label);
    encoder::set_pipeline(encoder.get(), step);
    encoder::set_buffer(encoder.get(), out.get(), 0, 0);
    encoder::set_bytes(encoder.get(), &value, sizeof(value), 1);
    dispatch(encoder.get());
    encoder::end(encoder.get());
  };
  encode(fill.get(), "good");
  encode(bad.get(), "bad");
  encode(fill.get(), "late");
  command_buffer::commit(commands.get());
  command_buffer::wait_until_completed(commands.get());
  EXPECT_EQ(command_buffer::status(commands.get()), kCommandBufferStatusError);
  const std::string error = command_buffer::error(commands.get());
  EXPECT_THAT(error, HasSubstr("kernel 'write_outside'"));
  EXPECT_THAT(error, HasSubstr("; encoder 'bad' faulted (first, bad)"));
  EXPECT_THAT(error, Not(HasSubstr("'good'")));
  EXPECT_THAT(error, Not(HasSubstr("'late'")));
  EXPECT_THAT(take_reports(), Not(IsEmpty()));
  EXPECT_EQ(run([&](Id encoder) {
              encoder::set_pipeline(encoder, fill.get());
              encoder::set_buffer(encoder, out.get(), 0, 0);
              encoder::set_bytes(encoder, &value, sizeof(value), 1);
              dispatch(encoder);
            }),
            "")
      << "later command buffers run";
}

TEST_F(FakeMetalTest, KernelsFailOnRequest) {
  start({.fail_kernel = "fill"});
  Object out = buffer();
  Object fill = pipeline("fill");
  const uint32_t value = 1;
  EXPECT_THAT(run([&](Id encoder) {
                for (int i = 0; i < 20; ++i) encoder::insert_debug_signpost(encoder, "fill");
                encoder::set_pipeline(encoder, fill.get());
                encoder::set_buffer(encoder, out.get(), 0, 0);
                encoder::set_bytes(encoder, &value, sizeof(value), 1);
                dispatch(encoder);
              }),
              ::testing::AllOf(HasSubstr("kernel 'fill' fails on request"), HasSubstr("fill, ...)")));
  EXPECT_EQ(values(out), counting_from(0));
}

// ---- what Apple's validation layer finds ----------------------------------------------------------------------------

TEST_F(FakeMetalTest, BindingsAreChecked) {
  Object out = buffer();
  buffer::set_label(out.get(), "out");
  std::array<char, 4100> bytes{};
  EXPECT_THAT(run_fault([&](Id encoder) { encoder::set_buffer(encoder, out.get(), 0, 31); }), HasSubstr("index 31"));
  EXPECT_THAT(run_fault([&](Id encoder) { encoder::set_bytes(encoder, bytes.data(), 4, 31); }), HasSubstr("index 31"));
  EXPECT_THAT(run_fault([&](Id encoder) { encoder::set_threadgroup_memory(encoder, 16, 31); }), HasSubstr("index 31"));
  EXPECT_THAT(run_fault([&](Id encoder) { encoder::set_bytes(encoder, bytes.data(), 4100, 0); }), HasSubstr("4096"));
  EXPECT_THAT(run_fault([&](Id encoder) { encoder::set_bytes(encoder, bytes.data(), 0, 0); }), HasSubstr("0 bytes"));
  EXPECT_THAT(run_fault([&](Id encoder) { encoder::set_buffer(encoder, out.get(), kBytes, 0); }),
              HasSubstr("buffer 'out' at index 0: offset 256 is past its end"));
  EXPECT_EQ(run([&](Id encoder) {
              encoder::set_buffer(encoder, nullptr, 0, 3);
              encoder::set_buffer(encoder, out.get(), 3, 30);
              encoder::set_bytes(encoder, bytes.data(), 4096, 1);
            }),
            "");
}

TEST_F(FakeMetalTest, ResourcesAreChecked) {
  Object out = buffer();
  Id resources[] = {out.get(), nullptr};
  EXPECT_THAT(run_fault([&](Id encoder) { encoder::use_resources(encoder, resources, 2, kResourceUsageWrite); }),
              HasSubstr("resource 1 is nil"));
  EXPECT_THAT(run_fault([&](Id encoder) { encoder::use_resources(encoder, resources, 1, 8); }), HasSubstr("usage 8"));
}

TEST_F(FakeMetalTest, UnboundBuffersAreFoundWhenUsed) {
  Object fill = pipeline("fill");
  Object out = buffer();
  EXPECT_THAT(run([&](Id encoder) {
                encoder::set_pipeline(encoder, fill.get());
                encoder::set_buffer(encoder, out.get(), 0, 0);
                dispatch(encoder);
              }),
              HasSubstr("kernel 'fill'"));
  EXPECT_THAT(take_reports(), Not(IsEmpty()));
}

TEST_F(FakeMetalTest, ThreadgroupMemoryIsChecked) {
  Object out = buffer();
  Object reverse = pipeline("reverse"), fill = pipeline("fill");
  auto with = [&](Id step, size_t bytes, int index) {
    return [&, step, bytes, index](Id encoder) {
      encoder::set_pipeline(encoder, step);
      encoder::set_buffer(encoder, out.get(), 0, 0);
      encoder::set_threadgroup_memory(encoder, bytes, index);
      dispatch(encoder);
    };
  };
  EXPECT_THAT(run_fault(with(reverse.get(), 33 * 1024, 0)), HasSubstr("over 32 KiB"));
  EXPECT_THAT(run_fault(with(reverse.get(), 256, 1)), HasSubstr("kernel 'reverse' has no index 1"));
  EXPECT_THAT(run_fault(with(fill.get(), 256, 0)), HasSubstr("kernel 'fill' has no index 0"));
  EXPECT_THAT(run_fault([&](Id encoder) { encoder::set_threadgroup_memory(encoder, 100, 0); }),
              HasSubstr("100 is no multiple of 16"));
}

TEST_F(FakeMetalTest, DispatchesAreChecked) {
  Object fill = pipeline("fill");
  auto of_size = [&](Size threadgroups, Size threads) {
    return [&, threadgroups, threads](Id encoder) {
      encoder::set_pipeline(encoder, fill.get());
      encoder::dispatch_threadgroups(encoder, threadgroups, threads);
    };
  };
  EXPECT_THAT(run_fault(of_size({1, 0, 1}, {32, 1, 1})), HasSubstr("nothing to do: 1x0x1 threadgroups of 32x1x1"));
  EXPECT_THAT(run_fault(of_size({1, 1, 1}, {32, 1, 0})), HasSubstr("nothing to do"));
  EXPECT_THAT(run_fault(of_size({1, 1, 1}, {32, 33, 1})), HasSubstr("32x33x1 threads, over 1024"));
  EXPECT_THAT(run_fault(of_size({1UL << 32, 1, 1}, {32, 1, 1})), HasSubstr("4294967296x1x1 threadgroups"));
  EXPECT_THAT(run_fault([](Id encoder) { dispatch(encoder); }), HasSubstr("no pipeline is set"));
  EXPECT_THAT(run_fault([](Id encoder) { encoder::set_pipeline(encoder, nullptr); }), HasSubstr("got nil"));
}

TEST_F(FakeMetalTest, EndedEncodersAreOver) {
  Object out = buffer();
  Object commands = command_buffer();
  Object encoder = command_buffer::compute_encoder(commands.get());
  encoder::end(encoder.get());
  encoder::set_buffer(encoder.get(), out.get(), 0, 0);
  EXPECT_THAT(take_reports(), ElementsAre("setBuffer: the encoder has ended"));
  encoder::end(encoder.get());
  EXPECT_THAT(take_reports(), ElementsAre("endEncoding: the encoder has ended"));
  command_buffer::commit(commands.get());
  command_buffer::wait_until_completed(commands.get());
  EXPECT_THAT(command_buffer::error(commands.get()), HasSubstr("the encoder has ended"));
  encoder::insert_debug_signpost(encoder.get(), "late");
  EXPECT_THAT(take_reports(), ElementsAre("insertDebugSignpost: the encoder has ended"));
}

TEST_F(FakeMetalTest, EncodersTakeTurns) {
  Object commands = command_buffer();
  Object first = command_buffer::compute_encoder(commands.get());
  Object second = command_buffer::compute_encoder(commands.get());
  EXPECT_THAT(take_reports(), ElementsAre("computeCommandEncoder: another encoder has not ended"));
  encoder::end(first.get());
  encoder::end(second.get());
  Object third = command_buffer::compute_encoder(commands.get());
  third = {};
  EXPECT_THAT(take_reports(), ElementsAre("an encoder was released without endEncoding"));
}

TEST_F(FakeMetalTest, CommitIsOnceAndAtTheEnd) {
  Object commands = command_buffer();
  command_buffer::wait_until_completed(commands.get());
  EXPECT_THAT(take_reports(), ElementsAre(HasSubstr("waitUntilCompleted: the command buffer has not been committed")));
  Object encoder = command_buffer::compute_encoder(commands.get());
  command_buffer::commit(commands.get());
  EXPECT_THAT(take_reports(), ElementsAre("commit: an encoder has not ended"));
  encoder::end(encoder.get());
  command_buffer::wait_until_completed(commands.get());
  EXPECT_THAT(command_buffer::error(commands.get()), HasSubstr("commit: an encoder has not ended"));
  command_buffer::commit(commands.get());
  EXPECT_THAT(take_reports(), ElementsAre("commit: the command buffer was committed before"));
  EXPECT_FALSE(command_buffer::compute_encoder(commands.get()));
  EXPECT_THAT(take_reports(), ElementsAre(HasSubstr("computeCommandEncoder: the command buffer has been committed")));
}

}  // namespace
}  // namespace marlin::metal
