"""Classic short functions in many spellings: the part of the data that is written, not collected.

Each entry is (what it does, names, code). In the code, ``F`` stands for the function's name and
``A``, ``B``, ``C`` for its variables; each takes one of the spellings listed in `VARIABLES`.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

VARIABLES = {
    "A": ("arr", "items", "values", "numbers", "nums", "data", "lst"),
    "N": ("n", "number", "num", "x"),
    "S": ("s", "text", "string", "word"),
    "M": ("a", "x", "first", "left"),
    "O": ("b", "y", "second", "right"),
    "T": ("target", "value", "key", "item"),
    "R": ("result", "output", "res", "out"),
    "I": ("i", "index", "k"),
    "P": ("path", "filename", "name"),
    "D": ("d", "mapping", "table"),
}

CLASSICS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("sorts a list with the quick sort algorithm", ("quick_sort", "quicksort"),
     "def F(A):\n    if len(A) <= 1:\n        return A\n    pivot = A[0]\n    left = []\n    right = []\n    for I in range(1, len(A)):\n        if A[I] < pivot:\n            left.append(A[I])\n        else:\n            right.append(A[I])\n    return F(left) + [pivot] + F(right)\n"),
    ("sorts a list with the quick sort algorithm", ("quick_sort", "quicksort"),
     "def F(A):\n    if len(A) <= 1:\n        return A\n    pivot = A[len(A) // 2]\n    left = [x for x in A if x < pivot]\n    middle = [x for x in A if x == pivot]\n    right = [x for x in A if x > pivot]\n    return F(left) + middle + F(right)\n"),
    ("sorts a list with the merge sort algorithm", ("merge_sort", "mergesort"),
     "def F(A):\n    if len(A) <= 1:\n        return A\n    middle = len(A) // 2\n    left = F(A[:middle])\n    right = F(A[middle:])\n    R = []\n    i = j = 0\n    while i < len(left) and j < len(right):\n        if left[i] <= right[j]:\n            R.append(left[i])\n            i += 1\n        else:\n            R.append(right[j])\n            j += 1\n    R.extend(left[i:])\n    R.extend(right[j:])\n    return R\n"),
    ("sorts a list with the bubble sort algorithm", ("bubble_sort", "bubblesort"),
     "def F(A):\n    n = len(A)\n    for i in range(n):\n        for j in range(n - i - 1):\n            if A[j] > A[j + 1]:\n                A[j], A[j + 1] = A[j + 1], A[j]\n    return A\n"),
    ("sorts a list with the insertion sort algorithm", ("insertion_sort",),
     "def F(A):\n    for i in range(1, len(A)):\n        current = A[i]\n        j = i - 1\n        while j >= 0 and A[j] > current:\n            A[j + 1] = A[j]\n            j -= 1\n        A[j + 1] = current\n    return A\n"),
    ("sorts a list with the selection sort algorithm", ("selection_sort",),
     "def F(A):\n    for i in range(len(A)):\n        smallest = i\n        for j in range(i + 1, len(A)):\n            if A[j] < A[smallest]:\n                smallest = j\n        A[i], A[smallest] = A[smallest], A[i]\n    return A\n"),
    ("finds a value in a sorted list with binary search", ("binary_search", "search"),
     "def F(A, T):\n    low = 0\n    high = len(A) - 1\n    while low <= high:\n        middle = (low + high) // 2\n        if A[middle] == T:\n            return middle\n        if A[middle] < T:\n            low = middle + 1\n        else:\n            high = middle - 1\n    return -1\n"),
    ("returns the n-th Fibonacci number", ("fibonacci", "fib"),
     "def F(N):\n    a, b = 0, 1\n    for _ in range(N):\n        a, b = b, a + b\n    return a\n"),
    ("returns the n-th Fibonacci number", ("fibonacci", "fib"),
     "def F(N):\n    if N <= 1:\n        return N\n    return F(N - 1) + F(N - 2)\n"),
    ("computes the factorial of a number", ("factorial", "fact"),
     "def F(N):\n    if N == 0:\n        return 1\n    return N * F(N - 1)\n"),
    ("computes the factorial of a number", ("factorial", "compute_factorial"),
     "def F(N):\n    R = 1\n    for I in range(2, N + 1):\n        R *= I\n    return R\n"),
    ("checks if a number is prime", ("is_prime", "prime"),
     "def F(N):\n    if N < 2:\n        return False\n    for I in range(2, int(N ** 0.5) + 1):\n        if N % I == 0:\n            return False\n    return True\n"),
    ("returns all prime numbers up to n", ("primes_up_to", "sieve"),
     "def F(N):\n    sieve = [True] * (N + 1)\n    R = []\n    for I in range(2, N + 1):\n        if sieve[I]:\n            R.append(I)\n            for j in range(I * I, N + 1, I):\n                sieve[j] = False\n    return R\n"),
    ("reverses a string", ("reverse_string", "reverse"), "def F(S):\n    return S[::-1]\n"),
    ("checks if a string is a palindrome", ("is_palindrome", "palindrome"),
     "def F(S):\n    return S == S[::-1]\n"),
    ("checks if a string is a palindrome, ignoring case", ("is_palindrome",),
     "def F(S):\n    S = S.lower()\n    return S == S[::-1]\n"),
    ("computes the greatest common divisor of two numbers", ("gcd", "greatest_common_divisor"),
     "def F(M, O):\n    while O:\n        M, O = O, M % O\n    return M\n"),
    ("computes the least common multiple of two numbers", ("lcm",),
     "def F(M, O):\n    return M * O // gcd(M, O)\n"),
    ("returns the largest number in a list", ("find_max", "maximum", "largest"),
     "def F(A):\n    R = A[0]\n    for x in A:\n        if x > R:\n            R = x\n    return R\n"),
    ("returns the smallest number in a list", ("find_min", "minimum", "smallest"),
     "def F(A):\n    R = A[0]\n    for x in A:\n        if x < R:\n            R = x\n    return R\n"),
    ("returns the sum of a list of numbers", ("sum_list", "total", "sum_numbers"),
     "def F(A):\n    total = 0\n    for x in A:\n        total += x\n    return total\n"),
    ("returns the average of a list of numbers", ("average", "mean"),
     "def F(A):\n    if not A:\n        return 0\n    return sum(A) / len(A)\n"),
    ("counts the words in a text", ("count_words", "word_count"),
     "def F(S):\n    counts = {}\n    for word in S.split():\n        counts[word] = counts.get(word, 0) + 1\n    return counts\n"),
    ("counts the vowels in a string", ("count_vowels",),
     "def F(S):\n    count = 0\n    for c in S.lower():\n        if c in 'aeiou':\n            count += 1\n    return count\n"),
    ("reads the lines of a file", ("read_lines", "load_lines"),
     "def F(P):\n    with open(P) as f:\n        return [line.strip() for line in f]\n"),
    ("writes lines to a file", ("write_lines", "save_lines"),
     "def F(P, lines):\n    with open(P, 'w') as f:\n        for line in lines:\n            f.write(line + '\\n')\n"),
    ("loads a JSON file", ("load_json", "read_json"),
     "def F(P):\n    with open(P) as f:\n        return json.load(f)\n"),
    ("removes duplicates from a list", ("remove_duplicates", "unique"),
     "def F(A):\n    seen = set()\n    R = []\n    for x in A:\n        if x not in seen:\n            seen.add(x)\n            R.append(x)\n    return R\n"),
    ("flattens a nested list", ("flatten",),
     "def F(A):\n    R = []\n    for x in A:\n        if isinstance(x, list):\n            R.extend(F(x))\n        else:\n            R.append(x)\n    return R\n"),
    ("returns the even numbers of a list", ("even_numbers", "filter_even", "evens"),
     "def F(A):\n    return [x for x in A if x % 2 == 0]\n"),
    ("returns the squares of a list of numbers", ("squares", "square_all"),
     "def F(A):\n    return [x * x for x in A]\n"),
    ("adds two numbers", ("add", "add_numbers"), "def F(M, O):\n    return M + O\n"),
    ("multiplies two numbers", ("multiply",), "def F(M, O):\n    return M * O\n"),
    ("checks if a number is even", ("is_even",), "def F(N):\n    return N % 2 == 0\n"),
    ("checks if two strings are anagrams", ("is_anagram", "are_anagrams"),
     "def F(M, O):\n    return sorted(M) == sorted(O)\n"),
    ("returns the sum of the digits of a number", ("sum_digits", "digit_sum"),
     "def F(N):\n    total = 0\n    while N > 0:\n        total += N % 10\n        N //= 10\n    return total\n"),
    ("inverts a dictionary", ("invert", "invert_dict"),
     "def F(D):\n    return {value: key for key, value in D.items()}\n"),
    ("merges two dictionaries", ("merge_dicts", "merge"),
     "def F(M, O):\n    R = M.copy()\n    R.update(O)\n    return R\n"),
    ("splits a list into chunks", ("chunks", "split_chunks"),
     "def F(A, size):\n    for I in range(0, len(A), size):\n        yield A[I:I + size]\n"),
    ("raises a number to a power", ("power",),
     "def F(base, exponent):\n    R = 1\n    for _ in range(exponent):\n        R *= base\n    return R\n"),
    ("converts Celsius to Fahrenheit", ("celsius_to_fahrenheit", "to_fahrenheit"),
     "def F(celsius):\n    return celsius * 9 / 5 + 32\n"),
    ("transposes a matrix", ("transpose",),
     "def F(matrix):\n    return [list(row) for row in zip(*matrix)]\n"),
    ("implements a stack", ("Stack",),
     "class F:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n        self.items.append(item)\n\n    def pop(self):\n        if not self.items:\n            raise IndexError('pop from an empty stack')\n        return self.items.pop()\n\n    def peek(self):\n        return self.items[-1]\n\n    def is_empty(self):\n        return not self.items\n"),
    ("implements a queue", ("Queue",),
     "class F:\n    def __init__(self):\n        self.items = []\n\n    def enqueue(self, item):\n        self.items.append(item)\n\n    def dequeue(self):\n        if not self.items:\n            raise IndexError('dequeue from an empty queue')\n        return self.items.pop(0)\n\n    def is_empty(self):\n        return not self.items\n"),
    ("describes a point in the plane", ("Point",),
     "class F:\n    def __init__(self, x, y):\n        self.x = x\n        self.y = y\n\n    def distance(self, other):\n        return ((self.x - other.x) ** 2 + (self.y - other.y) ** 2) ** 0.5\n\n    def __repr__(self):\n        return f'F({self.x}, {self.y})'\n"),
    ("describes a rectangle", ("Rectangle",),
     "class F:\n    def __init__(self, width, height):\n        self.width = width\n        self.height = height\n\n    def area(self):\n        return self.width * self.height\n\n    def perimeter(self):\n        return 2 * (self.width + self.height)\n"),
    ("describes a bank account", ("Account", "BankAccount"),
     "class F:\n    def __init__(self, owner, balance=0):\n        self.owner = owner\n        self.balance = balance\n\n    def deposit(self, amount):\n        self.balance += amount\n\n    def withdraw(self, amount):\n        if amount > self.balance:\n            raise ValueError('insufficient funds')\n        self.balance -= amount\n"),
)  # fmt: skip

REQUESTS = (
    "Write a function that {what}.",
    "Write a Python function that {what}.",
    "write a function that {what} in python.",
    "Write a Python function `{name}` that {what}.",
    "Implement `{name}` in Python.",
    "Please write a function which {what}.",
    "How do I write a function that {what}?",
    "I need a Python function that {what}.",
    "write a function that {what}",
)
CLASS_REQUESTS = (
    "Write a class that {what}.",
    "Write a Python class `{name}` that {what}.",
    "Implement a {name} class in Python.",
)
ALGORITHM_REQUESTS = (
    "write a {algorithm} algorithm in python.",
    "Write a {algorithm} algorithm in Python.",
    "Implement {algorithm} in Python.",
    "write {algorithm} in python",
    "Write a Python function that implements {algorithm}.",
)
COMMENTS = (
    "# {what}\n",
    "# write a function that {what}\n",
    "# a function that {what}\n",
)
ALGORITHM_COMMENTS = (
    "#写一个{chinese}算法\n",
    "# write a {algorithm} algorithm\n",
    "# {algorithm}\n",
)
CHINESE = {
    "quick sort": "快速排序",
    "merge sort": "归并排序",
    "bubble sort": "冒泡排序",
    "insertion sort": "插入排序",
    "selection sort": "选择排序",
    "binary search": "二分查找",
}


@dataclass(frozen=True, slots=True)
class Classic:
    """One spelling of a classic: its code, a request for it, a comment that announces it."""

    code: str
    request: str
    comment: str


def spell(rng: random.Random) -> Classic:
    """Return a random classic in a random spelling."""
    what, names, code = rng.choice(CLASSICS)
    name = rng.choice(names)
    used = {"F": name}
    for letter, spellings in VARIABLES.items():
        used[letter] = rng.choice([s for s in spellings if s not in used.values()])
    code = re.sub(r"\b([A-Z])\b", lambda match: used.get(match[1], match[1]), code)
    if rng.random() < 0.3:
        head, _, body = code.partition("\n")
        code = f'{head}\n    """{what[0].upper()}{what[1:]}."""\n{body}'
    is_class = code.startswith("class")
    algorithm = next((a for a in CHINESE if a in what), None)
    requests: tuple[str, ...] = CLASS_REQUESTS if is_class else REQUESTS
    comments: tuple[str, ...] = COMMENTS
    if algorithm is not None and rng.random() < 0.5:
        requests, comments = ALGORITHM_REQUESTS, ALGORITHM_COMMENTS
    fields = {
        "what": what,
        "name": name,
        "algorithm": algorithm or "",
        "chinese": CHINESE.get(algorithm or "", ""),
    }
    return Classic(
        code, rng.choice(requests).format(**fields), rng.choice(comments).format(**fields)
    )
