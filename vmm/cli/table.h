/* Text in columns, for people: the first row is the head. */
#ifndef VMM_TABLE_H
#define VMM_TABLE_H

#include <jansson.h>
#include <stddef.h>

#define TABLE_COLUMNS 12
#define TABLE_CELL    64

typedef char table_row[TABLE_COLUMNS][TABLE_CELL];

/* One cell: strings and whole numbers as they are, anything else a dash. Nothing moves the cursor.
 */
void table_cell(json_t *value, char *ret, size_t cap);
/* To standard output, as wide as its widest cells; the last column is not filled up. */
void table_print(table_row *rows, int n, int columns);

#endif
