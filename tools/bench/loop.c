/* python3 as a program of its own that is linked with the shared library of Python, as the module is. */
#include <Python.h>

int main(int argc, char **argv)
{
    return Py_BytesMain(argc, argv);
}
