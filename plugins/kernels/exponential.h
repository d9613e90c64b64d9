// e^x over the lanes of any instruction set.
#pragma once

namespace trtcoder {
namespace {

// Relative error below 2e-7; what is beyond [-87, 88] counts as its end. NaN stays NaN.
//
// 2^n e^r with |r| <= ln(2) / 2, and for e^r the polynomial of Cephes' expf.
template <class Lanes>
typename Lanes::F exponential(typename Lanes::F x) {
  using F = typename Lanes::F;
  x = Lanes::min(Lanes::broadcast(88.0f), Lanes::max(Lanes::broadcast(-87.0f), x));
  const F magic = Lanes::broadcast(0x1.8p23f);
  const F n = Lanes::sub(Lanes::fma(x, Lanes::broadcast(0x1.715476p0f), magic), magic);
  F r = Lanes::fnma(n, Lanes::broadcast(0x1.63p-1f), x);
  r = Lanes::fnma(n, Lanes::broadcast(-0x1.bd0106p-13f), r);
  F p = Lanes::broadcast(1.9875691500e-4f);
  p = Lanes::fma(p, r, Lanes::broadcast(1.3981999507e-3f));
  p = Lanes::fma(p, r, Lanes::broadcast(8.3334519073e-3f));
  p = Lanes::fma(p, r, Lanes::broadcast(4.1665795894e-2f));
  p = Lanes::fma(p, r, Lanes::broadcast(1.6666665459e-1f));
  p = Lanes::fma(p, r, Lanes::broadcast(5.0000001201e-1f));
  p = Lanes::add(Lanes::fma(p, Lanes::mul(r, r), r), Lanes::broadcast(1.0f));
  return Lanes::scale_by_power(p, Lanes::to_int(n));
}

}  // namespace
}  // namespace trtcoder
