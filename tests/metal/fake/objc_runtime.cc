#include "metal/fake/objc_runtime.h"

#include <algorithm>
#include <deque>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "metal/fake/state.h"

namespace marlin::fake_metal {

SelectorName intern(const std::string& selector) {
  static auto& mutex = *new std::mutex;
  static auto& known = *new std::set<std::string>;
  std::lock_guard lock(mutex);
  return known.insert(selector).first->c_str();
}

bool returns_ownership(SelectorName selector) {
  const std::string_view text = selector;
  for (std::string_view family : {"alloc", "new", "copy", "mutableCopy"}) {
    if (!text.starts_with(family)) continue;
    if (text.size() == family.size() || text[family.size()] < 'a' || text[family.size()] > 'z') return true;
  }
  return false;
}

// ---- objects and their references ----------------------------------------------------------------------------------

namespace {

/// Never destroyed: objects die at any time until the program ends.
struct Objects {
  std::mutex mutex;
  std::unordered_map<Id, Instance*> live;
  std::unordered_map<Id, std::string> dead;  // class names of those whose memory is held back
  std::deque<void*> held_back;
};

Objects& objects() {
  static auto& all = *new Objects;
  return all;
}

constexpr size_t kMostHeldBack = 4096;

/// "MTLBuffer" even if it is dead; the lock is held.
std::string class_name_of(const Objects& all, Id object) {
  if (auto it = all.live.find(object); it != all.live.end()) return it->second->isa().name();
  if (auto it = all.dead.find(object); it != all.dead.end()) return "deallocated " + it->second;
  return "something that is no object";
}

std::string class_name_of(Id object) {
  std::lock_guard lock(objects().mutex);
  return class_name_of(objects(), object);
}

}  // namespace

// Not inline: GCC takes an inlined half of the pair for a mismatch.
[[gnu::noinline]] void* Instance::operator new(size_t bytes) {
  return ::operator new(bytes);
}

[[gnu::noinline]] void Instance::operator delete(void* memory) {
  Objects& all = objects();
  std::lock_guard lock(all.mutex);
  all.held_back.push_back(memory);
  if (all.held_back.size() <= kMostHeldBack) return;
  all.dead.erase(all.held_back.front());
  ::operator delete(all.held_back.front());
  all.held_back.pop_front();
}

bool Instance::responds_to(SelectorName selector) {
  if (auto* self = dynamic_cast<Class*>(this)) return self->class_method_of(selector) != nullptr;
  return isa().instances_respond_to(selector);
}

void Heap::add(Instance* object, Class* isa) {
  object->isa_ = isa;
  std::lock_guard lock(objects().mutex);
  objects().live[object] = object;
}

void Heap::make_immortal(Instance* object) {
  object->immortal_ = true;
}

Instance* Heap::find(Id object) {
  std::lock_guard lock(objects().mutex);
  auto it = objects().live.find(object);
  return it == objects().live.end() ? nullptr : it->second;
}

void Heap::retain(Id object) {
  Objects& all = objects();
  std::unique_lock lock(all.mutex);
  if (auto it = all.live.find(object); it != all.live.end()) {
    ++it->second->references_;
    return;
  }
  const std::string name = class_name_of(all, object);
  lock.unlock();
  report("retain of a " + name);
}

void Heap::release(Id object) {
  Objects& all = objects();
  std::unique_lock lock(all.mutex);
  auto it = all.live.find(object);
  if (it == all.live.end()) {
    const std::string name = class_name_of(all, object);
    lock.unlock();
    report("over-release: release of a " + name);
    return;
  }
  Instance* instance = it->second;
  if (instance->immortal_ || --instance->references_ > 0) return;
  all.dead[object] = instance->isa().name();
  all.live.erase(it);
  lock.unlock();
  delete instance;  // releases what it owns
}

std::map<std::string, int> Heap::count_by_class() {
  std::lock_guard lock(objects().mutex);
  std::map<std::string, int> counts;
  for (const auto& [id, object] : objects().live) {
    if (!object->immortal_) ++counts[object->isa().name()];
  }
  return counts;
}

Id retain(Id object) {
  if (object) Heap::retain(object);
  return object;
}

void release(Id object) {
  if (object) Heap::release(object);
}

void die_of_wrong_object(Id object, const Class& wanted, SelectorName context) {
  die(std::string(context) + " got a " + class_name_of(object) + " where it takes a " + wanted.name());
}

// ---- autorelease pools ----------------------------------------------------------------------------------------------

namespace {

/// The pools of a thread, one after the other; a null marks where one begins.
class PoolStack {
 public:
  ~PoolStack() {
    if (!entries_.empty()) report("a thread ended inside an autorelease pool");
  }

  void* push() {
    entries_.push_back(nullptr);
    return reinterpret_cast<void*>(entries_.size());
  }

  void pop(void* token) {
    const size_t size = reinterpret_cast<size_t>(token);
    if (size == 0 || size > entries_.size() || entries_[size - 1] != nullptr) {
      report("an autorelease pool ended twice, or on another thread than it began");
      return;
    }
    while (entries_.size() >= size) {  // a release may autorelease more
      Id object = entries_.back();
      entries_.pop_back();
      release(object);
    }
  }

  bool add(Id object) {
    if (entries_.empty()) return false;
    entries_.push_back(object);
    return true;
  }

 private:
  std::vector<Id> entries_;
};

thread_local PoolStack pools;

}  // namespace

Id autorelease(Id object) {
  if (object && !pools.add(object)) {
    report("a " + class_name_of(object) + " was autoreleased with no pool in place: it leaks");
  }
  return object;
}

// ---- classes --------------------------------------------------------------------------------------------------------

namespace {

struct Classes {
  std::mutex mutex;
  std::map<std::string, Class*> by_name;
};

Classes& classes() {
  static auto& all = *new Classes;
  return all;
}

}  // namespace

Class& Class::define(const char* name, Visibility visibility) {
  auto* result = new Class(name, visibility);
  Heap::add(result, result);
  Heap::make_immortal(result);
  std::lock_guard lock(classes().mutex);
  if (!classes().by_name.emplace(name, result).second) die(std::string("class ") + name + " is defined twice");
  return *result;
}

Class* Class::find(const std::string& name) {
  std::lock_guard lock(classes().mutex);
  auto it = classes().by_name.find(name);
  return it == classes().by_name.end() ? nullptr : it->second;
}

std::vector<Class*> Class::all() {
  std::lock_guard lock(classes().mutex);
  std::vector<Class*> list;
  for (const auto& [name, each] : classes().by_name) list.push_back(each);
  return list;
}

Class& Class::root() {
  static Class& root = define("NSObject")
                           .method<&Instance::responds_to>("respondsToSelector:")
                           .class_method<&Class::instances_respond_to>("instancesRespondToSelector:");
  return root;
}

Class& Class::add(Methods& methods, const char* selector, Implementation implementation, size_t arguments) {
  const std::string_view text = selector;
  if (static_cast<size_t>(std::count(text.begin(), text.end(), ':')) != arguments) {
    die("selector " + std::string(text) + " of " + name_ + " has another number of arguments than its function");
  }
  methods[intern(selector)] = implementation;
  return *this;
}

Implementation Class::instance_method(SelectorName selector) const {
  if (hidden_.contains(selector)) return nullptr;
  if (auto it = methods_.find(selector); it != methods_.end()) return it->second;
  return this == &root() ? nullptr : root().instance_method(selector);
}

Implementation Class::class_method_of(SelectorName selector) const {
  if (hidden_.contains(selector)) return nullptr;
  if (auto it = class_methods_.find(selector); it != class_methods_.end()) return it->second;
  if (auto it = root().class_methods_.find(selector); it != root().class_methods_.end()) return it->second;
  return root().instance_method(selector);  // a class is an object, too
}

/// What objc_msgSend jumps to.
static Implementation implementation_of(Id receiver, SelectorName selector) {
  Instance* object = Heap::find(receiver);
  if (!object) die("message " + std::string(selector) + " to a " + class_name_of(receiver));
  auto* as_class = dynamic_cast<Class*>(object);
  Implementation found = as_class ? as_class->class_method_of(selector) : object->isa().instance_method(selector);
  if (!found) {
    die(std::string(as_class ? "+[" : "-[") + object->isa().name() + " " + selector + "]: unrecognized selector");
  }
  return found;
}

}  // namespace marlin::fake_metal

// ---- the runtime's C functions --------------------------------------------------------------------------------------

using marlin::fake_metal::Class;
using marlin::fake_metal::Id;
using marlin::fake_metal::Implementation;
using marlin::fake_metal::SelectorName;

extern "C" {

Implementation marlin_fake_implementation_of(Id receiver, SelectorName selector) {
  return marlin::fake_metal::implementation_of(receiver, selector);
}

SelectorName sel_registerName(const char* name) {
  return marlin::fake_metal::intern(name);
}

Id objc_getClass(const char* name) {
  marlin::fake_metal::define_classes();
  Class* found = Class::find(name);
  return found && found->visibility() == Class::kNamed ? static_cast<marlin::fake_metal::Instance*>(found) : nullptr;
}

const char* object_getClassName(Id object) {
  auto* instance = marlin::fake_metal::Heap::find(object);
  return instance ? instance->isa().name().c_str() : "nil";
}

Id objc_retain(Id object) {
  return marlin::fake_metal::retain(object);
}
void objc_release(Id object) {
  marlin::fake_metal::release(object);
}
void* objc_autoreleasePoolPush() {
  return marlin::fake_metal::pools.push();
}
void objc_autoreleasePoolPop(void* token) {
  marlin::fake_metal::pools.pop(token);
}

// ---- objc_msgSend ---------------------------------------------------------------------------------------------------

#if !defined(__x86_64__)
#error "the fake's objc_msgSend is written for x86-64"
#endif

// Looks the method up and jumps to it with every argument where the caller put it: integer registers, xmm registers,
// and the stack, which a jump leaves alone (structs of more than 16 bytes, such as MTLSize, travel there). A message to
// nil returns zero in each register that may hold a result.
asm(R"(
  .text
  .globl objc_msgSend
  .type objc_msgSend, @function
objc_msgSend:
  .cfi_startproc
  testq %rdi, %rdi
  je 1f
  pushq %rbp
  .cfi_def_cfa_offset 16
  .cfi_offset %rbp, -16
  movq %rsp, %rbp
  .cfi_def_cfa_register %rbp
  subq $176, %rsp
  movq %rdi, (%rsp)
  movq %rsi, 8(%rsp)
  movq %rdx, 16(%rsp)
  movq %rcx, 24(%rsp)
  movq %r8, 32(%rsp)
  movq %r9, 40(%rsp)
  movups %xmm0, 48(%rsp)
  movups %xmm1, 64(%rsp)
  movups %xmm2, 80(%rsp)
  movups %xmm3, 96(%rsp)
  movups %xmm4, 112(%rsp)
  movups %xmm5, 128(%rsp)
  movups %xmm6, 144(%rsp)
  movups %xmm7, 160(%rsp)
  call marlin_fake_implementation_of@PLT
  movq %rax, %r11
  movq (%rsp), %rdi
  movq 8(%rsp), %rsi
  movq 16(%rsp), %rdx
  movq 24(%rsp), %rcx
  movq 32(%rsp), %r8
  movq 40(%rsp), %r9
  movups 48(%rsp), %xmm0
  movups 64(%rsp), %xmm1
  movups 80(%rsp), %xmm2
  movups 96(%rsp), %xmm3
  movups 112(%rsp), %xmm4
  movups 128(%rsp), %xmm5
  movups 144(%rsp), %xmm6
  movups 160(%rsp), %xmm7
  leave
  .cfi_def_cfa %rsp, 8
  jmp *%r11
1:
  .cfi_def_cfa %rsp, 8
  xorl %eax, %eax
  xorl %edx, %edx
  pxor %xmm0, %xmm0
  pxor %xmm1, %xmm1
  ret
  .cfi_endproc
  .size objc_msgSend, .-objc_msgSend
)");

}  // extern "C"
