// Made-up /sys trees: which cores there are, and where threads go.
#include "backend/cpu/cpu_topology.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <string>

namespace marlin::cpu {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

/// A directory like /sys with the given files.
class SysTree {
 public:
  explicit SysTree(const std::map<std::string, std::string>& files)
      : root_(std::filesystem::path(::testing::TempDir()) /
              (std::string("cpu_topology_") + ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::remove_all(root_);
    for (const auto& [name, text] : files) {
      const std::filesystem::path path = root_ / "devices/system" / name;
      std::filesystem::create_directories(path.parent_path());
      std::ofstream(path) << text << '\n';
    }
  }
  ~SysTree() { std::filesystem::remove_all(root_); }
  SysTree(const SysTree&) = delete;
  SysTree& operator=(const SysTree&) = delete;

  const std::filesystem::path& root() const { return root_; }

 private:
  std::filesystem::path root_;
};

std::string siblings(int cpu) {
  return "cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list";
}

/// Two nodes of two cores of two hardware threads each, numbered as Linux does: first all cores, then their siblings.
std::map<std::string, std::string> two_nodes() {
  std::map<std::string, std::string> files = {{"cpu/online", "0-7"},
                                              {"node/online", "0-1"},
                                              {"node/node0/cpulist", "0-1,4-5"},
                                              {"node/node1/cpulist", "2-3,6-7"},
                                              {"node/power/control", "auto"}};
  for (int cpu = 0; cpu < 8; ++cpu) files[siblings(cpu)] = std::to_string(cpu % 4) + "," + std::to_string(cpu % 4 + 4);
  return files;
}

const std::vector<int> kAll = {0, 1, 2, 3, 4, 5, 6, 7};

std::vector<int> nodes_of(const std::vector<ThreadPlace>& places) {
  std::vector<int> nodes;
  nodes.reserve(places.size());
  for (const ThreadPlace& place : places) nodes.push_back(place.node);
  return nodes;
}

TEST(CpuTopology, CountsCoresAndNotTheirHardwareThreads) {
  const SysTree sys(two_nodes());
  EXPECT_THAT(read_cores(sys.root(), kAll), ElementsAre(Core{0, 0}, Core{1, 0}, Core{2, 1}, Core{3, 1}));
}

TEST(CpuTopology, KeepsToTheMask) {
  const SysTree sys(two_nodes());
  // Of cores 1 and 3 the mask has the second hardware thread only.
  EXPECT_THAT(read_cores(sys.root(), {0, 4, 5, 7}), ElementsAre(Core{0, 0}, Core{5, 0}, Core{7, 1}));
  // A mask inside the second node: its cores make the only node that counts.
  EXPECT_THAT(read_cores(sys.root(), {2, 3, 6, 7}), ElementsAre(Core{2, 0}, Core{3, 0}));
}

TEST(CpuTopology, LeavesOutWhatIsOffline) {
  std::map<std::string, std::string> files = two_nodes();
  files["cpu/online"] = "0,2-7";
  const SysTree sys(files);
  EXPECT_THAT(read_cores(sys.root(), {0, 1, 2, 3}), ElementsAre(Core{0, 0}, Core{2, 1}, Core{3, 1}));
}

TEST(CpuTopology, NodesWithoutCpusDoNotCount) {
  std::map<std::string, std::string> files = two_nodes();
  files["node/node0/cpulist"] = "";  // memory only, as a CXL device has it
  files["node/node1/cpulist"] = "0-3";
  files["node/node2/cpulist"] = "4-7";
  for (int cpu = 0; cpu < 8; ++cpu) files[siblings(cpu)] = std::to_string(cpu);
  const SysTree sys(files);
  const std::vector<Core> cores = read_cores(sys.root(), {0, 3, 4, 7});
  EXPECT_THAT(cores, ElementsAre(Core{0, 0}, Core{3, 0}, Core{4, 1}, Core{7, 1}));
}

TEST(CpuTopology, NodesMayInterleaveTheirCpus) {
  const SysTree sys({{"node/node0/cpulist", "0,2"}, {"node/node1/cpulist", "1,3"}});
  EXPECT_THAT(read_cores(sys.root(), {0, 1, 2, 3}), ElementsAre(Core{0, 0}, Core{2, 0}, Core{1, 1}, Core{3, 1}));
}

TEST(CpuTopology, WithoutSysEveryCpuIsACore) {
  EXPECT_THAT(read_cores("/nowhere", {1, 4}), ElementsAre(Core{1, 0}, Core{4, 0}));
}

TEST(CpuTopology, UnreadableListsAreCutShort) {
  const SysTree sys({{"node/node0/cpulist", "0-"}, {"node/node1/cpulist", "1,x,2"}, {"node/nodex/cpulist", "2"}});
  EXPECT_THAT(read_cores(sys.root(), {0, 1}), ElementsAre(Core{0, 0}, Core{1, 1}));
}

TEST(ThreadPlaces, OneThreadACoreStaysThere) {
  const std::vector<ThreadPlace> places = place_threads(4, {{0, 0}, {1, 0}, {2, 1}, {3, 1}});
  EXPECT_THAT(nodes_of(places), ElementsAre(0, 0, 1, 1));
  for (int i = 0; i < 4; ++i) EXPECT_THAT(places[static_cast<size_t>(i)].cpus, ElementsAre(i));
}

TEST(ThreadPlaces, OnOneNodeOtherNumbersAreLeftToTheSystem) {
  for (const int n : {1, 3, 5, 100}) {
    for (const ThreadPlace& place : place_threads(n, {{0, 0}, {1, 0}, {2, 0}, {3, 0}})) {
      EXPECT_EQ(place.node, 0);
      EXPECT_THAT(place.cpus, IsEmpty());
    }
  }
}

TEST(ThreadPlaces, SpreadOverNodesInProportion) {
  const std::vector<Core> even = {{0, 0}, {1, 0}, {2, 0}, {3, 1}, {4, 1}, {5, 1}};
  EXPECT_THAT(nodes_of(place_threads(2, even)), ElementsAre(0, 1));
  EXPECT_THAT(nodes_of(place_threads(4, even)), ElementsAre(0, 0, 1, 1));
  EXPECT_THAT(nodes_of(place_threads(8, even)), ElementsAre(0, 0, 0, 0, 1, 1, 1, 1));
  EXPECT_THAT(place_threads(2, even)[1].cpus, ElementsAre(3, 4, 5));
  const std::vector<Core> uneven = {{0, 0}, {1, 0}, {2, 0}, {3, 1}};
  EXPECT_THAT(nodes_of(place_threads(8, uneven)), ElementsAre(0, 0, 0, 0, 0, 0, 1, 1));
}

TEST(ThreadPlaces, OneThreadOrNoKnowledgeBindsNothing) {
  EXPECT_THAT(place_threads(1, {{0, 0}, {1, 1}})[0].cpus, IsEmpty());
  EXPECT_EQ(place_threads(3, {}).size(), 3u);
}

TEST(CpuTopology, ThisMachineHasCores) {
  EXPECT_GE(usable_cores(), 1);
}

}  // namespace
}  // namespace marlin::cpu
