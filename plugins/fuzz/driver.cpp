// Runs files of a corpus, then changes of them for a while, where there is no libFuzzer.
//
//     fuzz [--seconds N | --runs N] [--seed N] [--threads N] [--print] FILE…
//
// `--print` writes a line for each file: its name, the operator, the digest of what it computed, or
// why it was refused. An input that ends the process is left in the file `crash`.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "fuzz/calls.h"
#include "kernels/c_api.h"

namespace {

using Input = std::vector<uint8_t>;

Input g_current;

void leave_crash(int signal_number) {
  const int file = open("crash", O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (file >= 0 && write(file, g_current.data(), g_current.size()) >= 0) close(file);
  constexpr char text[] = "the input is in the file `crash`\n";
  if (write(2, text, sizeof text - 1) < 0) _exit(1);
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

fuzz::Outcome run(const Input& input) {
  g_current = input;
  return fuzz::call(input);
}

Input changed(const std::vector<Input>& corpus, std::mt19937_64& random) {
  const auto below = [&](size_t count) { return size_t(random() % count); };
  Input input = corpus[below(corpus.size())];
  for (size_t changes = 1 + below(6); changes; --changes) {
    const size_t at = input.empty() ? 0 : below(input.size());
    switch (below(5)) {
      case 0: input.insert(input.begin() + at, uint8_t(random())); break;
      case 1:
        if (!input.empty()) input.erase(input.begin() + at);
        break;
      case 2: {
        const Input& other = corpus[below(corpus.size())];
        input.resize(at);
        if (at < other.size()) input.insert(input.end(), other.begin() + at, other.end());
        break;
      }
      default:
        if (!input.empty()) input[at] = below(2) ? uint8_t(random()) : uint8_t(below(8));
    }
  }
  input.resize(std::min<size_t>(input.size(), 256));
  return input;
}

}  // namespace

int main(int count, char** arguments) {
  double seconds = 0;
  long most = 0;
  uint64_t seed = 0;
  bool prints = false;
  std::vector<Input> corpus;
  std::vector<std::string> names;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    if (argument == "--print") prints = true;
    else if (argument == "--seconds" && i + 1 < count) seconds = std::atof(arguments[++i]);
    else if (argument == "--runs" && i + 1 < count) most = std::atol(arguments[++i]);
    else if (argument == "--seed" && i + 1 < count) seed = std::strtoull(arguments[++i], nullptr, 10);
    else if (argument == "--threads" && i + 1 < count)
      trtcoder_set_threads(std::atoi(arguments[++i]));
    else {
      std::ifstream file(argument, std::ios::binary);
      if (!file) return std::fprintf(stderr, "%s: cannot be read\n", argument.c_str()), 2;
      corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
      names.push_back(argument.substr(argument.rfind('/') + 1));
    }
  }
  for (int signal_number : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL})
    signal(signal_number, leave_crash);
  for (size_t i = 0; i < corpus.size(); ++i) {
    const fuzz::Outcome found = run(corpus[i]);
    if (!prints) continue;
    if (found.refusal.empty())
      std::printf("%s %s %016llx\n", names[i].c_str(), found.op,
                  static_cast<unsigned long long>(found.digest));
    else
      std::printf("%s %s refused: %s\n", names[i].c_str(), found.op, found.refusal.c_str());
  }
  if (corpus.empty()) corpus.emplace_back();
  std::mt19937_64 random(seed);
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  long runs = 0, computed = 0;
  for (; runs < most || Clock::now() < end; ++runs) computed += run(changed(corpus, random)).refusal.empty();
  if (runs) std::printf("%ld changed inputs, %ld computed\n", runs, computed);
}
