/* What completes a command line in a shell, from the tables of commands and options. */
#ifndef VMM_COMPLETION_H
#define VMM_COMPLETION_H

/*
 * `ftvmm completion bash` prints a function for bash, which asks `ftvmm completion bash WORD...`:
 * the words of a command line without the program, as far as they are typed. Printed is what the
 * last one may become, a line each; nothing where a file's name belongs. Returns an exit code.
 */
int completion_main(int argc, char **argv);

#endif
