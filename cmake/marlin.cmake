# Helpers that keep the folder CMakeLists to one line each.

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()

# Flags of all our targets. Contraction is off so that a fused multiply-add never appears in one
# instantiation of a kernel and not in another (DESIGN.md, determinism).
add_library(marlin_flags INTERFACE)
target_compile_options(marlin_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Werror -ffp-contract=off)
target_include_directories(marlin_flags INTERFACE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
target_compile_definitions(marlin_flags INTERFACE MARLIN_VERSION="${PROJECT_VERSION}")
if(MARLIN_SANITIZE)
  target_compile_options(marlin_flags INTERFACE
    -fsanitize=${MARLIN_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(marlin_flags INTERFACE -fsanitize=${MARLIN_SANITIZE})
endif()
if(MARLIN_FUZZ)
  target_compile_options(marlin_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

# marlin_library(base SOURCES a.cc b.cc DEPS Threads::Threads): the static library marlin_base.
function(marlin_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(marlin_${name} STATIC ${ARG_SOURCES})
  target_link_libraries(marlin_${name} PUBLIC marlin_flags ${ARG_DEPS})
endfunction()

# marlin_test(fp4_test SOURCES fp4_test.cc DEPS marlin_format): one GoogleTest program, run by ctest as one test.
function(marlin_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS" ${ARGN})
  if(NOT MARLIN_TESTS)
    return()
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gtest GTest::gtest_main GTest::gmock)
  target_compile_definitions(${name} PRIVATE
    MARLIN_SOURCE_DIR="${PROJECT_SOURCE_DIR}" MARLIN_SHARED_DIR="${PROJECT_SOURCE_DIR}/../shared")
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT})
endfunction()

# marlin_fuzzer(safetensors_fuzz SOURCES x.cc DEPS marlin_format): a libFuzzer program (clang, -DMARLIN_FUZZ=ON).
function(marlin_fuzzer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  if(NOT MARLIN_FUZZ)
    return()
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS})
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
endfunction()
