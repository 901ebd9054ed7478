// After the text of a .metal file. Included more than once in a program, though once in a file.
#undef device
#undef threadgroup
#undef thread
#undef constant
#undef kernel
