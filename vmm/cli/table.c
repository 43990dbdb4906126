#include "vmm/cli/table.h"

#include <stdio.h>
#include <string.h>

void table_cell(json_t *value, char *ret, size_t cap)
{
	const char *s = json_string_value(value);

	if (s && *s)
		snprintf(ret, cap, "%s", s);
	else if (json_is_integer(value))
		snprintf(ret, cap, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	else
		snprintf(ret, cap, "-");
	/* Names come from another process. */
	for (char *p = ret; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
}

void table_print(table_row *rows, int n, int columns)
{
	size_t width[TABLE_COLUMNS] = {0};

	for (int row = 0; row < n; row++)
		for (int i = 0; i < columns; i++)
			if (strlen(rows[row][i]) > width[i])
				width[i] = strlen(rows[row][i]);
	for (int row = 0; row < n; row++)
		for (int i = 0; i < columns; i++)
			printf("%-*s%s", i < columns - 1 ? (int)width[i] : 0, rows[row][i],
			       i < columns - 1 ? "  " : "\n");
}
