#include "metal/fake/foundation.h"

#include <cstddef>

#include "metal/fake/state.h"

namespace marlin::fake_metal {
namespace {

/// Length of a UTF-8 sequence that begins with this byte; 0 for none.
int sequence_length(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead < 0xE0) return 2;
  if (lead >= 0xE0 && lead < 0xF0) return 3;
  return lead >= 0xF0 && lead < 0xF5 ? 4 : 0;
}

bool is_utf8(const char* text) {
  while (*text) {
    int n = sequence_length(static_cast<unsigned char>(*text));
    if (n == 0) return false;
    for (++text; n > 1; --n, ++text) {
      if ((*text & 0xC0) != 0x80) return false;
    }
  }
  return true;
}

}  // namespace

Class& String::objc_class() {
  static Class& c = Class::define("NSString")
                        .allocates<String>()
                        .method<&String::init_with_utf8>("initWithUTF8String:")
                        .method<&String::utf8>("UTF8String");
  return c;
}

String* String::init_with_utf8(const char* content) {
  if (!content) die("-[NSString initWithUTF8String:] got NULL");
  if (!is_utf8(content)) {
    release(static_cast<Instance*>(this));
    return nullptr;
  }
  text = content;
  return this;
}

Class& Url::objc_class() {
  static Class& c = Class::define("NSURL").class_method<&Url::file_url>("fileURLWithPath:");
  return c;
}

Ref<Url> Url::file_url(String* path) {
  if (!path) die("+[NSURL fileURLWithPath:] got nil");
  return make<Url>(path->text);
}

Class& Array::objc_class() {
  static Class& c = Class::define("NSArray").method<&Array::count>("count").method<&Array::object_at>("objectAtIndex:");
  return c;
}

Ref<Instance> Array::object_at(unsigned long index) {
  if (index >= objects.size()) die("-[NSArray objectAtIndex:]: index " + std::to_string(index) + " beyond bounds");
  return objects[index];
}

Class& Dictionary::objc_class() {
  static Class& c = Class::define("NSDictionary").method<&Dictionary::object_for_key>("objectForKey:");
  return c;
}

Ref<Instance> Dictionary::object_for_key(String* key) {
  auto it = key ? objects.find(key->text) : objects.end();
  return it == objects.end() ? Ref<Instance>() : it->second;
}

Class& Error::objc_class() {
  static Class& c = Class::define("NSError")
                        .method<&Error::description>("localizedDescription")
                        .method<&Error::user_info>("userInfo");
  return c;
}

std::nullptr_t fail(ErrorOut error, const std::string& description) {
  if (error) *error = autorelease(static_cast<Instance*>(make<Error>(description, make<Dictionary>()).leak()));
  return nullptr;
}

}  // namespace marlin::fake_metal
