// The classes of Foundation that Metal's interface is made of.
#pragma once

#include <string>
#include <vector>

#include "metal/fake/objc_runtime.h"

namespace marlin::fake_metal {

class String : public Instance {
 public:
  String() = default;
  explicit String(std::string content) : text(std::move(content)) {}
  static Class& objc_class();

  /// Takes over the receiver's reference, as an init method does; nil for what is not UTF-8.
  String* init_with_utf8(const char* content);
  const char* utf8() { return text.c_str(); }

  std::string text;
};

class Url : public Instance {
 public:
  explicit Url(std::string file) : path(std::move(file)) {}
  static Class& objc_class();
  static Ref<Url> file_url(String* path);

  std::string path;
};

class Array : public Instance {
 public:
  static Class& objc_class();
  unsigned long count() { return objects.size(); }
  Ref<Instance> object_at(unsigned long index);

  std::vector<Ref<Instance>> objects;
};

/// With strings as keys.
class Dictionary : public Instance {
 public:
  static Class& objc_class();
  Ref<Instance> object_for_key(String* key);

  std::map<std::string, Ref<Instance>> objects;
};

class Error : public Instance {
 public:
  Error(std::string what_failed, Ref<Dictionary> details)
      : description_(make<String>(std::move(what_failed))), user_info_(std::move(details)) {}
  static Class& objc_class();
  Ref<String> description() { return description_; }
  Ref<Dictionary> user_info() { return user_info_; }

 private:
  Ref<String> description_;
  Ref<Dictionary> user_info_;
};

/// An NSError** argument, which may be null.
using ErrorOut = Id*;
/// Sets it, and returns nil as the method does.
std::nullptr_t fail(ErrorOut error, const std::string& description);

}  // namespace marlin::fake_metal
