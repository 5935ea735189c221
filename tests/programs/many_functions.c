/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "many.h"

#define DEFINE(number) DEFINE_VERSION(1, number)
THOUSAND(DEFINE)
