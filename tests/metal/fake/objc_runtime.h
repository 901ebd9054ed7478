// The part of the Objective-C runtime that messages need, for objects written in C++. A class is a C++ class derived
// from Instance whose objc_class() lists its selectors:
//
//   Class& Buffer::objc_class() {
//     static Class& c = Class::define("MTLBuffer", Class::kProtocol).method<&Buffer::length>("length");
//     return c;
//   }
//
// Messages reach the member functions with their arguments converted and checked. A message that nobody answers to, or
// that goes to a deallocated object, ends the program with the names of both.
#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace marlin::fake_metal {

using Id = void*;
/// Interned: equal text is the same pointer.
using SelectorName = const char*;
SelectorName intern(const std::string& selector);

class Class;

/// Any object. It lives by its reference count: make() gives the first reference.
class Instance {
 public:
  Instance(const Instance&) = delete;
  Instance& operator=(const Instance&) = delete;
  virtual ~Instance() = default;
  /// Memory is not used again at once, so that a message to a dead object is known as one.
  static void* operator new(size_t bytes);
  static void operator delete(void* memory);

  Class& isa() const { return *isa_; }
  bool responds_to(SelectorName selector);

 protected:
  Instance() = default;

 private:
  friend class Heap;
  Class* isa_ = nullptr;
  long references_ = 1;
  bool immortal_ = false;
};

/// retain and release as the runtime does them: nil is fine, a dead object is a report.
Id retain(Id object);
void release(Id object);
/// Released when the innermost pool of this thread ends; without one it leaks, which is a report.
Id autorelease(Id object);

/// Owns one reference to an object.
template <typename T>
class Ref {
 public:
  Ref() = default;
  Ref(std::nullptr_t) {}
  explicit Ref(T* object) : object_(object) { retain(static_cast<Instance*>(object)); }
  static Ref adopt(T* object) {
    Ref ref;
    ref.object_ = object;
    return ref;
  }
  Ref(const Ref& other) : Ref(other.object_) {}
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  template <typename Derived>
  requires(std::is_base_of_v<T, Derived> && !std::is_same_v<T, Derived>) Ref(Ref<Derived> other)
      : object_(other.leak()) {}
  Ref& operator=(Ref other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() { release(static_cast<Instance*>(object_)); }

  T* get() const { return object_; }
  T* operator->() const { return object_; }
  explicit operator bool() const { return object_ != nullptr; }
  /// Gives the reference away.
  T* leak() { return std::exchange(object_, nullptr); }

 private:
  T* object_ = nullptr;
};

/// Knows every object that is alive.
class Heap {
 public:
  static void add(Instance* object, Class* isa);
  /// For objects that live as long as the program and belong to no count.
  static void make_immortal(Instance* object);
  /// Null if it is dead or never was one.
  static Instance* find(Id object);
  static void retain(Id object);
  static void release(Id object);
  static std::map<std::string, int> count_by_class();
};

template <typename T, typename... Args>
Ref<T> make(Args&&... args) {
  T* object = new T(std::forward<Args>(args)...);
  Heap::add(object, &T::objc_class());
  return Ref<T>::adopt(object);
}
template <typename T>
Ref<T> allocate() {
  return make<T>();
}

/// `object` as a T; nil stays null. Anything else ends the program: the message that got it is named by `context`.
[[noreturn]] void die_of_wrong_object(Id object, const Class& wanted, SelectorName context);
template <typename T>
T* as(Id object, SelectorName context) {
  if (!object) return nullptr;
  T* result = dynamic_cast<T*>(Heap::find(object));
  if (!result) die_of_wrong_object(object, T::objc_class(), context);
  return result;
}

/// Objective-C's rule: the caller owns what methods with these names return.
bool returns_ownership(SelectorName selector);

// ---- from a message to a C++ function ------------------------------------------------------------------------------

using Implementation = void (*)();

template <typename T>
struct Argument {
  using Raw = T;
  static T from(Raw raw, SelectorName) { return raw; }
};
template <typename T>
requires std::is_base_of_v<Instance, T>
struct Argument<T*> {
  using Raw = Id;
  static T* from(Id raw, SelectorName context) { return as<T>(raw, context); }
};

template <typename T>
struct Result {
  using Raw = T;
  static T to(T value, SelectorName) { return value; }
};
template <typename T>
requires std::is_base_of_v<Instance, T>
struct Result<T*> {
  using Raw = Id;
  static Id to(T* object, SelectorName) { return static_cast<Instance*>(object); }
};
template <typename T>
struct Result<Ref<T>> {
  using Raw = Id;
  static Id to(Ref<T> ref, SelectorName selector) {
    Id object = static_cast<Instance*>(ref.leak());
    return returns_ownership(selector) ? object : autorelease(object);
  }
};

template <>
struct Result<void> {
  using Raw = void;
};

/// The C function that objc_msgSend jumps to.
template <auto function>
struct Method;
template <typename T, typename R, typename... Args, R (T::*function)(Args...)>
struct Method<function> {
  static constexpr size_t kArguments = sizeof...(Args);
  static typename Result<R>::Raw call(Id self, SelectorName selector, typename Argument<Args>::Raw... args) {
    T* object = static_cast<T*>(static_cast<Instance*>(self));
    if constexpr (std::is_void_v<R>) {
      (object->*function)(Argument<Args>::from(args, selector)...);
    } else {
      return Result<R>::to((object->*function)(Argument<Args>::from(args, selector)...), selector);
    }
  }
};
template <typename R, typename... Args, R (*function)(Args...)>
struct Method<function> {
  static constexpr size_t kArguments = sizeof...(Args);
  static typename Result<R>::Raw call(Id, SelectorName selector, typename Argument<Args>::Raw... args) {
    return Result<R>::to(function(Argument<Args>::from(args, selector)...), selector);
  }
};
/// A class object; it answers to class methods.
class Class : public Instance {
 public:
  /// A protocol's class is private to the system: code cannot ask for it by name.
  enum Visibility { kNamed, kProtocol };
  static Class& define(const char* name, Visibility visibility = kNamed);
  static Class* find(const std::string& name);
  static std::vector<Class*> all();
  static Class& root();  // NSObject

  template <auto function>
  Class& method(const char* selector) {
    return add(methods_, selector, reinterpret_cast<Implementation>(&Method<function>::call),
               Method<function>::kArguments);
  }
  template <auto function>
  Class& class_method(const char* selector) {
    return add(class_methods_, selector, reinterpret_cast<Implementation>(&Method<function>::call),
               Method<function>::kArguments);
  }
  /// Answers to alloc and new.
  template <typename T>
  Class& allocates() {
    return class_method<&allocate<T>>("alloc").template class_method<&allocate<T>>("new");
  }

  const std::string& name() const { return name_; }
  Visibility visibility() const { return visibility_; }
  /// Null if instances do not answer to it.
  Implementation instance_method(SelectorName selector) const;
  Implementation class_method_of(SelectorName selector) const;
  bool instances_respond_to(SelectorName selector) { return instance_method(selector) != nullptr; }
  /// As a system that does not have it yet.
  void hide(SelectorName selector) { hidden_.insert(selector); }
  void show_all() { hidden_.clear(); }

 private:
  using Methods = std::map<SelectorName, Implementation>;
  Class(const char* name, Visibility visibility) : name_(name), visibility_(visibility) {}
  Class& add(Methods& methods, const char* selector, Implementation implementation, size_t arguments);

  std::string name_;
  Visibility visibility_;
  Methods methods_, class_methods_;
  std::set<SelectorName> hidden_;
};

/// Supplied by the classes: makes them all, so that they can be asked for by name.
void define_classes();

}  // namespace marlin::fake_metal
