// Exceptions end at the boundary of the library.
#pragma once

#include <exception>
#include <string>

namespace trtcoder {

// Runs `body` and returns NULL, or the message of what it threw.
template <class Body>
const char* guarded(Body body) {
  thread_local std::string message;
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
  } catch (...) {
    message = "an unknown error";
  }
  return message.c_str();
}

}  // namespace trtcoder
