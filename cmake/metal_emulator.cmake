# emulated_kernels(name SOURCES a.metal … INCLUDES dir …): the interface library `name`. A program that links it has the
# kernels of these files for the Metal emulator, each compiled to be fast, and once more to be checked.

find_program(MARLIN_METAL_CLANG NAMES clang++-19 REQUIRED
  DOC "compiles Metal kernels; older ones, and g++ 12, have no arithmetic on half and bfloat")
find_package(Python3 REQUIRED COMPONENTS Interpreter)
set(MARLIN_METAL_EMULATOR ${PROJECT_SOURCE_DIR}/tests/metal/emulator)

# The two -Xclang: a half or bfloat is rounded after each operation, as on the GPU. Warnings that are off are about what
# MSL allows.
set(MARLIN_METAL_FLAGS -std=c++17 -fPIC -ffp-contract=off -Wall -Werror -Wno-unused -Wno-duplicate-decl-specifier
  -Wno-pass-failed -Wno-user-defined-literals -Wno-reserved-user-defined-literal
  -Xclang -ffloat16-excess-precision=none -Xclang -fbfloat16-excess-precision=none)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND MARLIN_METAL_FLAGS -march=x86-64-v3)
endif()
set(MARLIN_METAL_FAST_FLAGS -O2)
# The thread sanitizer's calls, which our checker answers: they leave out accesses of more than 16 bytes, so there must
# be none. Of DWARF 5 addr2line does not find all inlined frames.
set(MARLIN_METAL_CHECKED_FLAGS -O1 -gdwarf-4 -fdebug-compilation-dir=. -DMARLIN_METAL_CHECKED -fno-omit-frame-pointer
  -mprefer-vector-width=128 -fno-vectorize -fno-slp-vectorize
  -fsanitize=thread -mllvm -tsan-instrument-func-entry-exit=0 -mllvm -tsan-instrument-read-before-write=1
  -fsanitize=alignment,array-bounds,shift,integer-divide-by-zero,float-cast-overflow,unreachable,return)

# Compiles a generated file with the flags that follow; appends the object to the variable `objects` of the caller.
function(marlin_metal_object source object)
  add_custom_command(OUTPUT ${object} DEPFILE ${object}.d DEPENDS ${source}
    COMMAND ${CMAKE_CXX_COMPILER_LAUNCHER} ${MARLIN_METAL_CLANG} ${MARLIN_METAL_FLAGS} ${ARGN}
      -I ${MARLIN_METAL_EMULATOR} -MD -MF ${object}.d -MT ${object} -c ${source} -o ${object}
    COMMENT "Compiling Metal kernels ${object}" VERBATIM)
  set(objects ${objects} ${object} PARENT_SCOPE)
endfunction()

function(emulated_kernels name)
  cmake_parse_arguments(ARG "" "" "SOURCES;INCLUDES" ${ARGN})
  list(TRANSFORM ARG_INCLUDES PREPEND -I)
  set(objects)
  foreach(source ${ARG_SOURCES})
    get_filename_component(source ${source} ABSOLUTE)
    get_filename_component(base ${source} NAME_WE)
    set(generated ${CMAKE_CURRENT_BINARY_DIR}/${name}/${base}.cc)
    file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/${name})
    add_custom_command(OUTPUT ${generated} DEPFILE ${generated}.d
      DEPENDS ${source} ${MARLIN_METAL_EMULATOR}/generate.py
      COMMAND ${Python3_EXECUTABLE} ${MARLIN_METAL_EMULATOR}/generate.py ${source} ${generated}
        --depfile ${generated}.d --root ${PROJECT_SOURCE_DIR} --clang ${MARLIN_METAL_CLANG} ${ARG_INCLUDES}
      COMMENT "Generating ${name}/${base}.cc" VERBATIM)
    marlin_metal_object(${generated} ${generated}.o ${MARLIN_METAL_FAST_FLAGS})
    marlin_metal_object(${generated} ${generated}.checked.o ${MARLIN_METAL_CHECKED_FLAGS})
  endforeach()
  # Objects, not an archive: nobody refers to a kernel by a symbol, so a linker would leave them all out.
  add_custom_target(${name}_objects DEPENDS ${objects})
  add_library(${name} INTERFACE)
  target_link_libraries(${name} INTERFACE ${objects} marlin_metal_emulator)
  add_dependencies(${name} ${name}_objects)
endfunction()
