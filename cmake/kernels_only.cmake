# What the ops and their tests need, from sources: fmt by its headers, GoogleTest as Debian's package googletest has it.
set(MARLIN_LAYERS base format ops backend)
set(MARLIN_TEST_PARTS ops)

add_library(fmt::fmt INTERFACE IMPORTED)
target_compile_definitions(fmt::fmt INTERFACE FMT_HEADER_ONLY)

set(googletest /usr/src/googletest)
if(NOT EXISTS ${googletest}/CMakeLists.txt)
  message(FATAL_ERROR "${googletest} is missing: install Debian's package googletest (scripts/setup.sh --ci)")
endif()
set(INSTALL_GTEST OFF)
add_subdirectory(${googletest} ${PROJECT_BINARY_DIR}/googletest EXCLUDE_FROM_ALL)
